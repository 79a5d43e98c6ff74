#!/usr/bin/env bash
# Builds, checks and measures on a machine with an NVIDIA GPU, in ten minutes, without a package registry. `make gpu`.
# What matters most comes first, each part in processes of its own with limits of its own; a part that fails does not hold
# up the others, and what there is stands in OUT after each of them. The exit status is 1 where a check failed.
#
#   OUT      where results go, eight files at most (default: build/gpu): page.md says what they mean, logs.tar.gz has the rest
#   PYTHON   the interpreter, with torch and Triton (default: python3)
#   WHEELS   a folder of wheels that are missing there, such as pytest's and hypothesis' (default: build/wheels if present)
#   PEERS    the folder that bench/gpu/pack_peers.py packed, or a tar file of it: other samplers to measure beside
#            (default: build/peers.tar.xz if present, else build/peers)
#   GPU_SECONDS   for everything (default: 570)
#   GPU_BENCH_ARGS   for the matrix of python -m bench.gpu, such as "-k B=256"
#   GPU_DRY=1     tries all of this where there is no GPU: Triton's interpreter, the CUDA source on threads, small sizes
set -uo pipefail
cd "$(dirname "$0")/.."
root=$PWD
python=${PYTHON:-python3}
out=$(realpath -m "${OUT:-build/gpu}")
work=$root/build/gpu-work
logs=$work/logs
peers=${PEERS:-build/peers}
[ -n "${PEERS:-}" ] || [ ! -f build/peers.tar.xz ] || peers=build/peers.tar.xz
peers=$(realpath -m "$peers")
wheels=$(realpath -m "${WHEELS:-build/wheels}")
total=${GPU_SECONDS:-570}
dry=${GPU_DRY:-}
site=$root/build/gpu-site
failed=0
rm -rf "$work"
mkdir -p "$out" "$logs"
rm -f "$out"/{summary.txt,page.md,logs.tar.gz,stages.json,goals.json,peers.json}
summary=$out/summary.txt
: >"$summary"

export PYTHONUNBUFFERED=1 PYTHONPATH=$site:$root${PYTHONPATH:+:$PYTHONPATH}
export PYLLMDECODE_COMMIT=${PYLLMDECODE_COMMIT:-$(git rev-parse --short HEAD 2>/dev/null || true)}
# Torch's threads spin while they wait; where other work wants the same cores, that makes both a hundred times slower.
export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-10000}

if [ -n "$dry" ]; then
    export PYLLMDECODE_CUDA_ON_THREADS=1 TRITON_INTERPRET=1
    device=(--device cpu) small=(--vocabs 7) goals=(-k greedy) matrix=() others=() hard_seconds=3
    suites=(tests/backends/test_state_gpu.py)
else
    device=(--device cuda) small=() hard_seconds=25
    goals=(--contenders cuda triton read -k '^(topk-topp|topp) B=(256|1) V=128256 bfloat16')
    matrix=(--contenders cuda triton read torch-topk)
    others=(-k 'V=128256 bfloat16')
    suites=(tests/backends/test_gpu.py tests/test_{sample,sampler,nucleus,draw,process_logits,invariance}.py)
    suites+=(-k "triton or cuda or gpu")
fi

say() { echo "$*" | tee -a "$summary"; }
left() { echo $((total - SECONDS)); }

# part NAME LIMIT COMMAND...: runs it for at most LIMIT seconds with its output in NAME.log, and brings the archive and the
# page up to date.
part() {
    local name=$1 limit=$2 begin=$SECONDS status
    shift 2
    [ "$limit" -le "$(left)" ] || limit=$(left)
    if [ "$limit" -lt 5 ]; then
        say "SKIP  $name: no time left"
        return 1
    fi
    echo "...   $name, at most $limit s"
    # A second signal, KILL, for what does not heed the first one.
    timeout --kill-after=5 "$limit" "$@" >>"$logs/$name.log" 2>&1
    status=$?
    case $status in
    0) say "pass  $name, $((SECONDS - begin)) s$(last_line "$name")" ;;
    124 | 137) say "FAIL  $name: stopped after $limit s$(last_line "$name")" ;;
    *) say "FAIL  $name, status $status, $((SECONDS - begin)) s$(last_line "$name")" ;;
    esac
    [ $status -eq 0 ] || failed=1
    write_up
    return $status
}

write_up() {
    tar czf "$out/logs.tar.gz" -C "$work" logs
    timeout 30 "$python" -m bench.gpu.page --out "$out" --logs "$logs" >"$logs/page.log" 2>&1
}

last_line() {
    local line
    line=$(grep -v '^[[:space:]]*$' "$logs/$1.log" | tail -n 1 | cut -c 1-200)
    echo "${line:+: $line}"
}

skip() { say "SKIP  $1: $2"; }
tool() { command -v "$1" || ls "/usr/local/cuda/bin/$1" 2>/dev/null; }

say "commit ${PYLLMDECODE_COMMIT:-unknown}, $(date -u '+%Y-%m-%d %H:%M UTC')${dry:+, dry: no GPU}"
if [ -z "$dry" ]; then
    timeout 60 nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm,clocks.max.sm --format=csv,noheader 2>&1 |
        tee -a "$summary"
fi

# What the design rests on, before torch takes its time.
arch=$(timeout 20 nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1 | tr -d .)
arch=${PYLLMDECODE_CUDA_ARCHS:-${arch:-90}}
nvcc=${PYLLMDECODE_NVCC:-$(tool nvcc)}
if [ -n "$nvcc" ]; then
    probe="'$nvcc' -std=c++20 -O3 -arch=sm_$arch -o '$work/probe' bench/gpu/probe.cu"
    part probe 60 bash -c "$probe${dry:+ && echo compiled}$([ -n "$dry" ] || echo " && '$work/probe'")"
else
    skip probe "nvcc is missing"
fi

if compgen -G "$wheels/*.whl" >/dev/null; then
    rm -rf "$site"
    "$python" -m pip install -q --no-index --no-deps --no-compile --target "$site" "$wheels"/*.whl 2>&1 | grep -v WARNING
fi
timeout 120 "$python" - 2>&1 <<'PY' | tee -a "$summary"
import importlib.metadata, platform, torch

names = ("torch", "triton", "numpy", "transformers", "pytest", "hypothesis", "pybind11", "ninja")
found = {name: None for name in names}
for name in names:
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(f"python {platform.python_version()}", *(f"{name} {found[name] or 'missing'}" for name in names), sep=", ")
gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none that torch can use"
print(f"CUDA {torch.version.cuda}, GPU: {gpu}")
PY
if [ -z "$dry" ] && ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    say "FAIL  no GPU that $python's torch can use"
    exit 1
fi

export PYLLMDECODE_CUDA_ARCHS=$arch
[ -n "$dry" ] || part build 180 env PYLLMDECODE_CUDA_STAMPS=1 "$python" setup.py build_ext --inplace

# Right answers, in as little time as possible.
for backend in cuda triton; do
    part "small-$backend" 90 "$python" tests/backends/gpu_small.py "$backend" "${device[@]}" "${small[@]}"
done

# The goals. What there is of others comes last.
part goals 60 "$python" -m bench.gpu "${device[@]}" --out "$work/goals" --seconds 50 --case-seconds 0.5 \
    "${goals[@]}"
cp "$work"/goals/*.json "$out/goals.json" 2>/dev/null

part stages 45 env PYLLMDECODE_CUDA_STAMPS=1 "$python" -m bench.gpu.stages --out "$out"

ncu=$(tool ncu)
if [ -n "$ncu" ]; then
    part bytes 60 "$python" -m bench.gpu.bytes --out "$out"
    for batch in 1 256; do
        for backend in cuda triton; do
            part "ncu-$backend-$batch" 40 "$ncu" --set detailed --profile-from-start off --clock-control none \
                --launch-count 5 "$python" -m bench.gpu.bytes --run "$backend" topk-topp --batch $batch
        done
    done
else
    skip bytes "ncu is missing"
fi

# shellcheck disable=SC2086 # several arguments
part matrix 90 "$python" -m bench.gpu "${device[@]}" --out "$out" --seconds 80 --case-seconds 0.4 \
    "${matrix[@]}" ${GPU_BENCH_ARGS:-}

# Others' CUDA sources compile meanwhile, where that has not been done in advance.
builder=
if [ -f "$peers" ]; then
    rm -rf build/gpu-peers
    mkdir -p build/gpu-peers
    tar xf "$peers" -C build/gpu-peers --strip-components=1 && peers=$root/build/gpu-peers
fi
if [ -f "$peers/peers.json" ]; then
    nice -n 10 "$python" -m bench.gpu.build_peers "$peers" --seconds 200 >"$logs/peers.log" 2>&1 &
    builder=$!
fi
trap '[ -z "$builder" ] || kill "$builder" 2>/dev/null' EXIT

for backend in cuda triton; do
    for what in edges soak; do
        part "$what-$backend" 45 "$python" tests/backends/gpu_hard.py "$what" "$backend" --seconds $hard_seconds
    done
done

if "$python" -c 'import pytest, hypothesis' 2>/dev/null; then
    several=()
    ! "$python" -c 'import xdist' 2>/dev/null || several=(-n 8)
    # CI: the same examples in every run.
    CI=1 part tests 90 "$python" -m pytest "${suites[@]}" -q -p no:cacheprovider "${several[@]}" --maxfail=40 \
        --durations=5
else
    skip tests "pytest or hypothesis is missing; WHEELS=FOLDER names their wheels"
fi

sanitizer=$(tool compute-sanitizer)
if [ -n "$sanitizer" ]; then
    # Every tensor an allocation of its own, so that reading past its end is seen. Triton asks the driver about pointers
    # that are none of the device's, which is no error of ours.
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 part memcheck 45 "$sanitizer" --tool memcheck --report-api-errors no \
        --error-exitcode 99 "$python" tests/backends/gpu_small.py --vocabs 5000
    for tool in racecheck synccheck; do
        part $tool 45 "$sanitizer" --tool $tool --error-exitcode 99 "$python" tests/backends/gpu_small.py --vocabs 5000
    done
else
    skip sanitizers "compute-sanitizer is missing"
fi

if [ -n "$builder" ] || "$python" -c 'import flashinfer' 2>/dev/null; then
    if [ -n "$builder" ]; then
        kill "$builder" 2>/dev/null
        wait "$builder" 2>/dev/null
        builder=
        (grep -E '^[a-z_]+: (was|NOT|[0-9])' "$logs/peers.log" || tail -n 1 "$logs/peers.log") | sed 's/^/peers: /' |
            tee -a "$summary"
        export PYTHONPATH=$peers:$PYTHONPATH FLASHINFER_WORKSPACE_BASE=$root/build/gpu-flashinfer
    fi
    seconds=$(($(left) - 15))
    part others $((seconds + 5)) "$python" -m bench.gpu "${device[@]}" --out "$work/peers" --seconds "$seconds" \
        "${others[@]}"
    cp "$work"/peers/*.json "$out/peers.json" 2>/dev/null
else
    skip others "$peers was not packed (bench/gpu/pack_peers.py), and no FlashInfer is installed"
fi

write_up
echo
echo "Summary, also in $summary:"
cat "$summary"
cat "$out/page.md" 2>/dev/null
exit $failed
