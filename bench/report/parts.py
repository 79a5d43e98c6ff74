"""The report's sections about what is no table of times: decoding with a real model, the memory of a request."""

from .tables import NOT_YET, TITLES, spread, table

LABELS = {"step": "pyllmdecode"}


def sections(results: dict) -> str:
    parts = ["### A decode step with SmolLM2", decode(results.get("decode"))]
    return "\n\n".join([*parts, "### Memory of a request", state(results.get("state"))])


def decode(made: dict | None) -> str:
    if made is None:
        return f"{NOT_YET}."
    if not made["rows"]:
        return "\n".join(f"- {name}: left out: {why}" for name, why in made["left_out"].items())
    names = list(dict.fromkeys(name for row in made["rows"] for name in row["times"]))
    headings = ["", "model, ms", *(f"{LABELS.get(n, n)}, tokens/s" for n in names)]
    headings += [f"{LABELS.get(n, n)}, share" for n in names]
    body = []
    for row in made["rows"]:
        cells = [row["point"], spread(row["model"], lambda us: f"{us / 1e3:.1f}")]
        cells += [spread(row["tokens_per_second"].get(name), lambda rate: f"{rate:.1f}") for name in names]
        body.append([*cells, *(spread(row["shares"].get(name), percent) for name in names)])
    first = made["rows"][0]
    text = (
        f"{made['model']}, V = {first['vocab']}, prompts of {first['prompt']} tokens, {first['model']['n']} steps. "
        "The share is that of choosing the tokens in the time of a step: the model's and that."
    )
    why = {(n, why): row["point"] for row in made["rows"] for n, why in row["left_out"].items()}
    return "\n".join([text, "", table(headings, body), *(f"\n- {n}: left out: {w}" for n, w in why)])


def state(made: dict | None) -> str:
    if made is None:
        return f"{NOT_YET}."
    lengths = list(made["rows"][0]["bytes"])
    headings = ["bytes of a request", "how it is known", *(f"history {int(n)}" for n in lengths)]
    headings += ["for each token more"]
    body = []
    for row in made["rows"]:
        sizes = [row["bytes"][n] for n in lengths]
        slope = (sizes[-1] - sizes[0]) / (int(lengths[-1]) - int(lengths[0]))
        body.append([row["name"], row["how"], *(f"{size}" for size in sizes), f"{slope:.1f}"])
    text = f"V = {made['vocab']}, repetition penalty and n-gram ban, random histories; room for {made['room']} tokens."
    return "\n".join([text, "", table(headings, body), *(f"\n- {n}: {why}" for n, why in made["left_out"].items())])


def lines(key: str, made: dict) -> list[str]:
    """For the terminal."""
    found = [f"  left out: {name}: {why}" for name, why in made["left_out"].items()]
    for row in made["rows"]:
        if key == "state":
            found.append(f"Memory of a request, {row['name']}: bytes {row['bytes']}")
        else:
            shares = ", ".join(f"{name} {percent(share['median'])}" for name, share in row["shares"].items())
            rate = row["tokens_per_second"]["step"]["median"]
            found.append(f"Decode, {row['point']}: {rate:.1f} tokens/s; share of a step: {shares}")
    return found


def gain(results: dict) -> str:
    """For the README at the top: tokens per second with us and with transformers; empty where that was not measured."""
    made = results.get("decode") or {"rows": []}
    body = []
    for row in made["rows"]:
        rates = {name: rate["median"] for name, rate in row["tokens_per_second"].items()}
        if (row["threads"], "transformers" in rates) == (1, True):
            more = f"{100 * (rates['step'] / rates['transformers'] - 1):.0f} %"
            others = [f"{rates[name]:.1f}" if name in rates else "" for name in ("transformers", "torch-topk")]
            size = f"{row['batch']} row{'s' * (row['batch'] > 1)}"
            body.append([f"{TITLES[row['params']]}, {size}", f"{rates['step']:.1f}", *others, more])
    if not body:
        return ""
    headings = ["tokens a second, model and all", "pyllmdecode", "transformers' processors", "torch with topk"]
    text = f"{made['model']}, on the same processor, one thread."
    return f"{table([*headings, 'more than with transformers'], body)}\n\n{text}"


def percent(share: float) -> str:
    return f"{share:.2g} %" if share < 10 else f"{share:.0f} %"
