#!/usr/bin/env bash
# Builds, checks and measures on a machine with an NVIDIA GPU, in ten minutes, without a package registry. `make gpu`.
# A step that fails does not hold up the others; the exit status is 1 where a check failed.
#
#   OUT      where results, logs and summary.txt go (default: build/gpu)
#   PYTHON   the interpreter, with torch and Triton (default: python3)
#   WHEELS   a folder of wheels that are missing there, such as pytest's and hypothesis' (default: build/wheels if present)
#   PEERS    the folder that bench/gpu/pack_peers.py packed, or a tar file of it: other samplers to measure beside
#            (default: build/peers.tar.xz if present, else build/peers)
#   GPU_SECONDS   for everything (default: 570), of which at least 200 are for measuring
#   GPU_BENCH_ARGS   for python -m bench.gpu, such as "-k B=256"
set -uo pipefail
cd "$(dirname "$0")/.."
root=$PWD
python=${PYTHON:-python3}
out=$(realpath -m "${OUT:-build/gpu}")
peers=${PEERS:-build/peers}
[ -n "${PEERS:-}" ] || [ ! -f build/peers.tar.xz ] || peers=build/peers.tar.xz
peers=$(realpath -m "$peers")
wheels=$(realpath -m "${WHEELS:-build/wheels}")
total=${GPU_SECONDS:-570}
reserved=200 # of which no other step gets any
site=$root/build/gpu-site
failed=0
mkdir -p "$out"
summary=$out/summary.txt
: >"$summary"

export PYTHONUNBUFFERED=1 PYTHONPATH=$site:$root${PYTHONPATH:+:$PYTHONPATH}
export PYLLMDECODE_COMMIT=${PYLLMDECODE_COMMIT:-$(git rev-parse --short HEAD 2>/dev/null || true)}
# Torch's threads spin while they wait; where other work wants the same cores, that makes both a hundred times slower.
export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-10000}

say() { echo "$*" | tee -a "$summary"; }
left() { echo $((total - reserved - SECONDS)); }

# step NAME LIMIT COMMAND...: runs it for at most LIMIT seconds with its output in $out/NAME.log.
step() {
    local name=$1 limit=$2 begin=$SECONDS status
    shift 2
    [ "$limit" -le "$(left)" ] || limit=$(left)
    if [ "$limit" -lt 5 ]; then
        say "FAIL  $name: no time left"
        failed=1
        return 1
    fi
    echo "...   $name, at most $limit s"
    # A second signal, KILL, for what does not heed the first one.
    timeout --kill-after=10 "$limit" "$@" >>"$out/$name.log" 2>&1
    status=$?
    case $status in
    0) say "pass  $name, $((SECONDS - begin)) s$(last_line "$name")" ;;
    124 | 137) say "FAIL  $name: stopped after $limit s$(last_line "$name")" ;;
    *) say "FAIL  $name, status $status, $((SECONDS - begin)) s$(last_line "$name")" ;;
    esac
    [ $status -eq 0 ] || failed=1
    return $status
}

last_line() {
    local line
    line=$(grep -v '^[[:space:]]*$' "$out/$1.log" | tail -n 1 | cut -c 1-200)
    echo "${line:+: $line}"
}

skip() { say "SKIP  $1: $2"; }

rm -f "$out"/{build,small,tests,memcheck,racecheck,synccheck,bytes,bench}.log
say "commit ${PYLLMDECODE_COMMIT:-unknown}, $(date -u '+%Y-%m-%d %H:%M UTC')"
timeout 60 nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader 2>&1 | tee -a "$summary"
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
if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    say "FAIL  no GPU that $python's torch can use"
    exit 1
fi

if compgen -G "$wheels/*.whl" >/dev/null; then
    rm -rf "$site"
    "$python" -m pip install -q --no-index --no-deps --no-compile --target "$site" "$wheels"/*.whl 2>&1 | grep -v WARNING
fi

if [ -f "$peers" ]; then
    rm -rf build/gpu-peers
    mkdir -p build/gpu-peers
    tar xf "$peers" -C build/gpu-peers --strip-components=1 && peers=$root/build/gpu-peers
fi

# Some ways of copying a tree leave links out.
[ -e pyllmdecode/kernels ] || ln -s ../kernels pyllmdecode/kernels
# A CUDA library that cannot be built is a failure here. For the GPU that is there, as each kind takes as long.
arch=$(timeout 60 nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1 | tr -d .)
PYLLMDECODE_CUDA=1 PYLLMDECODE_CUDA_ARCHS=${PYLLMDECODE_CUDA_ARCHS:-${arch:-90}} step build 120 "$python" setup.py build_ext --inplace

# Other samplers' CUDA sources compile meanwhile, where that has not been done in advance.
peers_log=$(mktemp)
builder=
if [ -f "$peers/peers.json" ]; then
    nice -n 10 "$python" -m bench.gpu.build_peers "$peers" --seconds 300 >"$peers_log" 2>&1 &
    builder=$!
fi
trap '[ -z "$builder" ] || kill "$builder" 2>/dev/null; rm -f "$peers_log"' EXIT

step small 90 "$python" tests/backends/gpu_small.py

if "$python" -c 'import pytest, hypothesis' 2>/dev/null; then
    several=()
    ! "$python" -c 'import xdist' 2>/dev/null || several=(-n 8)
    # What concerns no device, and imports what is missing there.
    elsewhere=(--ignore=tests/{bench,cli,csrc,project,reference,repetition,test_names.py,kernels/test_triton_compiled.py})
    # CI: the same examples in every run.
    CI=1 step tests 200 "$python" -m pytest tests --thorough -q -p no:cacheprovider "${several[@]}" --maxfail=40 --durations=5 \
        -k "triton or cuda or gpu" "${elsewhere[@]}"
else
    skip tests "pytest or hypothesis is missing; WHEELS=FOLDER names their wheels. Only the step small has checked results"
fi

sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
if [ -n "$sanitizer" ]; then
    # Every tensor an allocation of its own, so that reading past its end is seen. Triton asks the driver about pointers
    # that are none of the device's, which is no error of ours.
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 step memcheck 60 "$sanitizer" --tool memcheck --report-api-errors no \
        --error-exitcode 99 "$python" tests/backends/gpu_small.py --vocabs 7 5000
    for tool in racecheck synccheck; do
        step $tool 60 "$sanitizer" --tool $tool --error-exitcode 99 "$python" tests/backends/gpu_small.py --vocabs 5000
    done
else
    for tool in memcheck racecheck synccheck; do skip $tool "compute-sanitizer is missing"; done
fi

if [ -n "$(command -v ncu || ls /usr/local/cuda/bin/ncu 2>/dev/null)" ]; then
    step bytes 60 "$python" -m bench.gpu.bytes --out "$out"
    grep 'times the logits' "$out/bytes.log" >>"$summary"
else
    skip bytes "ncu is missing"
fi

if [ -n "$builder" ]; then
    # What is not compiled by now would take the time of the measurements.
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        kill -0 "$builder" 2>/dev/null && sleep 2
    done
    kill "$builder" 2>/dev/null
    wait "$builder" 2>/dev/null
    builder=
    cat "$peers_log" >>"$out/bench.log"
    (grep -E '^[a-z_]+: (was|NOT|[0-9])' "$peers_log" || tail -n 1 "$peers_log") | sed 's/^/peers: /' | tee -a "$summary"
    export PYTHONPATH=$peers:$PYTHONPATH FLASHINFER_WORKSPACE_BASE=$root/build/gpu-flashinfer
else
    skip peers "$peers was not packed (bench/gpu/pack_peers.py): FlashInfer and vLLM only if they are installed"
fi
reserved=0
seconds=$(($(left) - 20))
# shellcheck disable=SC2086 # several arguments
step bench $((seconds + 10)) "$python" -m bench.gpu --out "$out" --seconds "$seconds" ${GPU_BENCH_ARGS:-}
[ ! -f "$out/bench.log" ] || grep -E '^(FAULT|[0-9]+/)' "$out/bench.log" >>"$summary"

echo
echo "Summary, also in $summary:"
cat "$summary"
exit $failed
