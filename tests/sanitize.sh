#!/usr/bin/env bash
# Builds the native code with sanitizers beside the ordinary build, and runs its tests on that: memory errors and undefined
# behaviour first, then data races. Of the CUDA backend that is its source on threads of the CPU. Fails where a test fails
# or a sanitizer finds something. Takes the `python` in PATH.
#
#     bash tests/sanitize.sh [address] [thread]      (default: both)
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
compiler=${CXX:-g++}
# A report must reach the terminal although the process dies, so pytest may not redirect file descriptors.
tests=(-q -x --capture=sys -p no:cacheprovider -p no:xdist)

# build KIND FLAGS: a copy of the package in build/sanitize/KIND whose libraries are compiled and linked with FLAGS.
build() {
    local kind=$1 flags=$2 copy=$root/build/sanitize/$1
    echo "== $kind: compiling with $flags"
    rm -rf "$copy/pyllmdecode"
    mkdir -p "$copy/pyllmdecode"
    cp -r "$root"/pyllmdecode/{*.py,backends,cli,reference,repetition} "$copy/pyllmdecode/"
    (
        cd "$copy" # where ninja leaves its log
        export PYLLMDECODE_CUDA=0 PYLLMDECODE_CUDA_ON_THREADS=1
        PYLLMDECODE_CXXFLAGS="-g -O1 -fno-omit-frame-pointer $flags" PYLLMDECODE_LDFLAGS="$flags" \
            PYLLMDECODE_BUILD_DIR="$copy/objects" python "$root/setup.py" -q build_ext --build-lib "$copy" --build-temp "$copy"
    )
}

# run KIND RUNTIME...: the arguments of pytest follow after --
run() {
    local kind=$1 copy=$root/build/sanitize/$1 preload= library
    shift
    while [ "$1" != -- ]; do
        library=$("$compiler" -print-file-name="$1")
        [ -e "$library" ] || { echo "$compiler has no $1: install its sanitizer libraries" >&2; exit 1; }
        preload+=${preload:+:}$library
        shift
    done
    shift
    (
        cd "$copy" # not the root: Python would find the ordinary package there
        export LD_PRELOAD=$preload PYTHONPATH=$copy PYTHONMALLOC=malloc OMP_NUM_THREADS=1 CI=1
        export PYLLMDECODE_CUDA_ON_THREADS=1
        python -c "
import pyllmdecode
assert pyllmdecode.__file__.startswith('$copy/'), pyllmdecode.__file__
for name in ('cpu', 'cuda'):
    assert pyllmdecode.backends()[name], pyllmdecode.backends()[name].reason"
        python -m pytest "${tests[@]}" --rootdir "$root" -c "$root/pyproject.toml" "$@"
    )
}

at=$root/tests
for kind in "${@:-address thread}"; do
    for one in $kind; do
        case $one in
        address)
            build address "-fsanitize=address,undefined -fno-sanitize-recover=undefined"
            export ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1
            # What is deselected reads the ordinary build, or runs no native code of ours.
            run address libasan.so libubsan.so libstdc++.so -- \
                -k "not reference and not triton and not share_no_code and not not_fused" \
                "$at"/test_{sample,nucleus,process_logits,invariance,draw,sampler}.py "$at/csrc/test_native.py"
            ;;
        thread)
            build thread "-fsanitize=thread"
            # Python and torch are not instrumented: what they do to each other is not looked at.
            export TSAN_OPTIONS="ignore_noninstrumented_modules=1 halt_on_error=1"
            # In the CUDA source they would be missing barriers, and any row is the work of several threads there.
            run thread libtsan.so libstdc++.so -- -k "(thread_count or concurrent or cuda) and not triton" \
                "$at"/test_{invariance,sample,sampler}.py "$at/csrc/test_native.py"
            ;;
        *)
            echo "got '$one'; accepted: address, thread" >&2
            exit 2
            ;;
        esac
    done
done
echo "== nothing found"
