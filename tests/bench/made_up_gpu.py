"""Results of a GPU that does not exist, as bench.gpu writes them: for the tests of the report and its pictures."""

# Readings of the logits that each takes, beyond a fixed cost in µs.
SPEEDS = {"cuda": (1.2, 4), "triton": (2.0, 12), "read": (1.0, 3), "flashinfer": (9, 20), "flashinfer-cake": (7, 25)}
SPEEDS |= {"vllm": (20, 30), "torch": (80, 60), "torch-topk": (30, 40), "transformers": (90, 300)}
GB_PER_S = 4000.0
OURS = ("cuda", "triton")


def summary(value: float) -> dict:
    return {"median": value, "min": 0.9 * value, "max": 1.2 * value, "n": 5}


def results() -> dict:
    from bench.gpu import cases
    from bench.gpu.measure import goals

    rows = []
    for params, case in cases.all_cases():
        once = case.batch * case.row_bytes / GB_PER_S / 1e3
        times = {name: readings * once + fixed for name, (readings, fixed) in SPEEDS.items()}
        times["torch-topk"] *= 0.01 if (params, case.batch) == ("temperature", 8) else 1  # a row that we lose
        graph = {name: summary(us) for name, us in times.items() if name != "transformers"}
        row = {
            "point": case.name,
            "params": params,
            "batch": case.batch,
            "vocab": case.vocab,
            "dtype": case.dtype,
            "history": case.history,
            "times": graph,
            "eager": {name: summary(us + 50) for name, us in times.items()},
            "host": dict.fromkeys(OURS, summary(9.0)),
            "readings": {name: summary(us / once) for name, us in times.items()},
            "ratios": {
                f"{name} / {mine}": summary(us / times[mine]) | {"mode": "graph"}
                for mine in OURS
                for name, us in times.items()
                if name != mine
            },
            "without": {},
            "left_out": {"transformers in a graph": "its n-gram processor works on the host"},
        }
        rows.append(row | {"goals": [goal for mine in OURS for goal in goals(case, params, mine, row)]})
    machine = {
        "gpu": "Made-up GPU",
        "cuda": "13.0",
        "copy": {"bytes": 2**31, "gb_per_s": summary(GB_PER_S)},
        "system": "Linux",
        "versions": {"torch": "2"},
        "commit": "0000000",
        "date": "2026-01-01 00:00 UTC",
    }
    return {"machine": machine, "results": [{"group": "GPU", "rows": rows}]}


def counted() -> dict:
    """As bench/gpu/bytes.py writes it."""
    read = [{"backend": "cuda", "case": "topp", "bytes_read_per_byte_of_logits": 1.04}]
    return {"gpu": "Made-up GPU", "batch": 256, "vocab": 128256, "results": read}
