#!/usr/bin/env bash
# A session on a machine with an NVIDIA GPU, in calls of less than ten minutes: build in place, test, check memory,
# measure, profile.
set -o pipefail
set -u

readonly SKIPPED=77
readonly LOST=4 # benchmarks.run: the device is gone for that process
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) || exit 1
WORK=${PYAEGPU_GPU_WORK:-$ROOT/build/gpu} # logs, results and caches, ignored by git
readonly ROOT WORK
readonly MOST_JOBS=12
# What a stage may take at most, in seconds; a call's --limit comes first.
readonly -A MOST_S=([build]=240 [test]=300 [sanitize]=300 [warm]=240 [bench]=100000 [profile]=100000)

usage() {
  cat <<'TEXT'
usage: benchmarks/run_gpu.sh [--stage LIST] [--out DIR] [--limit SECONDS] [-- ARGUMENTS]

LIST names stages, separated by commas:
  build      builds pyaegpu in place (TORCH_CUDA_ARCH_LIST, default 9.0a)
  test       pytest -m gpu, in parallel where pytest-xdist is there
  sanitize   compute-sanitizer memcheck and racecheck on small awkward shapes and bad indices
  warm       compiles all that bench will run, in parallel; times nothing
  bench      every suite's cases of the first tier, one process alone on the card; rules.txt names the winners
  profile    ncu on one large call per family and GPU backend
  all        build,test,sanitize,warm,bench (default)

ARGUMENTS after -- go to pytest (test), in place of "tests", such as tests --share 2/3; to python3 -m benchmarks.run (warm and bench), such as
--shard 2/2, --tier rest, --suite norm_act, --resume; or name calls (profile), such as conv_transpose:triton.
Whatever happens, the call ends within the limit (default 570 s). DIR (default benchmarks/results/gpu) receives
gpu.tar.gz, logs and results of the call, and summary.txt. PYAEGPU_COMMIT names the commit where the sources have no
git repository. Nothing is downloaded, no setting of the card is touched.
Exit code: 0 all right, 1 a stage failed, 2 bad arguments, 77 nothing could run (no GPU, no tool).

A session, in three calls:
  --stage build,test,sanitize -- tests --share 1/3
  --stage build,warm,bench -- --shard 1/2
  --stage build,warm,bench -- --shard 2/2
then, with both bundles, python3 -m benchmarks.collect BUNDLE... --out benchmarks/results/CARD
TEXT
}

die() {
  printf 'run_gpu.sh: %s\n' "$1" >&2
  usage >&2
  exit 2
}

skip() {
  printf '%s: stage skipped\n' "$1"
  return "$SKIPPED"
}

gpu=unknown # asked once: it takes seconds

has_gpu() {
  if [ "$gpu" = unknown ]; then
    gpu=no
    python3 -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' >/dev/null 2>&1 && gpu=yes
  fi
  [ "$gpu" = yes ]
}

has_module() {
  python3 -c "import $1" >/dev/null 2>&1
}

# seconds that the stage may still take; some are left for the bundle
left_for() {
  local left=$((limit - SECONDS - 12))
  echo $((left < MOST_S[$1] ? left : MOST_S[$1]))
}

# logged STAGE COMMAND...: runs it under the time limit, everything into its log and to the terminal
logged() {
  local stage=$1 log="$WORK/logs/$1.log" seconds rc
  shift
  seconds=$(left_for "$stage")
  if [ "$seconds" -lt 5 ]; then
    echo 'no time left' | tee -a "$log"
    return 124
  fi
  timeout --kill-after=5 "$seconds" "$@" 2>&1 | tee -a "$log"
  rc=${PIPESTATUS[0]}
  if [ "$rc" -eq 124 ] || [ "$rc" -eq 137 ]; then
    printf 'stopped after %s s\n' "$seconds" | tee -a "$log"
  fi
  return "$rc"
}

build_commands() {
  # the second way needs neither pip nor a setuptools that understands pyproject.toml
  python3 -m pip install -v --disable-pip-version-check --no-build-isolation --no-deps -e . || python3 -c '
import runpy, sys
sys.path.insert(0, "build_backend")
from setuptools import Distribution
from pyaegpu_native import NinjaBuild
build = NinjaBuild(Distribution({"name": "pyaegpu", "version": runpy.run_path("pyaegpu/_version.py")["__version__"]}))
build.inplace = True
build.run()' || return 1
  python3 -c '
import sys, torch
from pyaegpu import backends
found = backends.status()
for name, reason in found.items():
    print(f"{name}: {reason or str()}" if reason else f"{name}: available")
# the package installs without what nvcc could not compile; a session on a GPU is there to run it
sys.exit(torch.cuda.is_available() and found["cuda"] is not None)'
}

stage_build() {
  export TORCH_CUDA_ARCH_LIST="${TORCH_CUDA_ARCH_LIST:-9.0a}"
  export -f build_commands
  logged build bash -o pipefail -c build_commands | tail -8
}

stage_test() {
  has_gpu || { skip 'no GPU'; return; }
  local options=(-m gpu -q -rN -p no:cacheprovider -p benchmarks.outcomes --tb=short --durations=10)
  options+=(--within $(($(left_for test) - 40)) --continue-on-collection-errors)
  has_module xdist && options+=(-n "$jobs" --dist worksteal --max-worker-restart 100)
  # without fixtures, in which tests of large tensors wait for each other
  has_module pytest_timeout && options+=(--timeout 120 --timeout-method thread -o timeout_func_only=true)
  [ $# -gt 0 ] || set -- tests
  options+=(--outcomes "$WORK/logs/outcomes.txt")
  # torch refuses cuBLAS under deterministic algorithms, which fill memory with NaN, without this workspace
  logged test env CUBLAS_WORKSPACE_CONFIG=:4096:8 python3 -m pytest "${options[@]}" "$@" >/dev/null
  local rc=$?
  cat "$WORK/logs/outcomes.txt" || tail -20 "$WORK/logs/test.log"
  return "$rc"
}

stage_sanitize() {
  has_gpu || { skip 'no GPU'; return; }
  command -v compute-sanitizer >/dev/null || { skip 'no compute-sanitizer'; return; }
  logged sanitize python3 -m benchmarks.sanitize --jobs "$jobs" --budget $(($(left_for sanitize) - 25)) \
    --log "$WORK/logs/sanitize-tools.log"
}

bench_options() {
  echo --suite all --tier first --device cuda --lean --rounds 5
}

stage_warm() {
  has_gpu || { skip 'no GPU'; return; }
  # shellcheck disable=SC2046 # several words
  logged warm python3 -m benchmarks.run $(bench_options) "$@" --warm --jobs "$jobs" \
    --budget $(($(left_for warm) - 40)) | tail -12
}

stage_bench() {
  has_gpu || { skip 'no GPU'; return; }
  local rc more=()
  case " $* " in *' --resume '*) ;; *) rm -rf "$WORK/results" ;; esac
  while true; do
    # shellcheck disable=SC2046 # several words
    logged bench python3 -m benchmarks.run $(bench_options) "$@" "${more[@]}" --out "$WORK/results" \
      --budget $(($(left_for bench) - 45)) --case-limit 90 >/dev/null
    rc=$?
    # a kernel's fault or a signal: what is left is for another process
    if [ "$rc" -lt "$LOST" ] || [ "$rc" -eq 124 ] || [ "$rc" -eq 137 ] || [ "$(left_for bench)" -lt 75 ]; then
      break
    fi
    more=(--resume)
  done
  compgen -G "$WORK/results/*.json" >/dev/null || { tail -5 "$WORK/logs/bench.log"; return "$rc"; }
  python3 -m benchmarks.rules "$WORK"/results/*.json >"$WORK/results/rules.txt"
  grep -aE '^(FAILED|NOISY|UNFINISHED|nothing)' "$WORK/logs/bench.log" | cut -c1-200 | tail -30
  python3 -m benchmarks.report --means "$WORK"/results/*.json
  return "$rc"
}

# the cuda backend has kernels of vae_loss, reparameterize, max_unpool, and conv_transpose's for few output channels
readonly PROFILED=(
  vae_loss:cuda vae_loss:triton reparameterize:cuda reparameterize:triton corrupt:triton conv_transpose:triton
  conv_transpose-few:cuda conv_transpose-few:triton norm_act:triton norm_act-block:triton conv_transpose_loss:triton
  max_unpool:cuda max_unpool:triton max_unpool-pool:cuda max_unpool-pool:triton nearest_unpool:triton
)

profile_commands() {
  local rc=0 call
  for call in "$@"; do
    ncu --clock-control none --target-processes all --nvtx --nvtx-include 'profile/' --set detailed \
      python3 -m benchmarks.smoke --backend "${call#*:}" --profile "${call%:*}" || rc=1
  done
  return "$rc"
}

stage_profile() {
  has_gpu || { skip 'no GPU'; return; }
  command -v ncu >/dev/null || { skip 'no ncu'; return; }
  export -f profile_commands
  [ $# -gt 0 ] || set -- "${PROFILED[@]}"
  logged profile bash -o pipefail -c 'profile_commands "$@"' profile "$@" >/dev/null
  local rc=$?
  grep -E '^  [A-Za-z_].*\(|Duration|Memory Throughput|DRAM Throughput|Registers Per Thread' "$WORK/logs/profile.log" |
    head -120
  return "$rc"
}

# everything but the caches in one file, as only few files may come back from a machine; 1 is tar's code for a log that
# grew meanwhile
bundle() {
  printf '%s\n' "${summary[@]}" >"$out/summary.txt"
  tar -C "$WORK" --exclude=./cache -czf "$out/gpu.tar.gz.tmp" .
  [ $? -le 1 ] && mv "$out/gpu.tar.gz.tmp" "$out/gpu.tar.gz"
}

# for a call that is killed, or a machine that is lost, in the midst of a stage; ends with this script
keep_bundling() {
  while sleep 60 && kill -0 "$$"; do
    bundle
  done
}

run_stage() {
  local name=$1 began=$SECONDS rc
  shift
  printf '== %s\n' "$name"
  "stage_$name" "$@"
  rc=$?
  summary+=("$(printf '%-9s rc %-3s %4s s' "$name" "$rc" "$((SECONDS - began))")")
  [ "$rc" -eq "$SKIPPED" ] && return
  ran=1
  [ "$rc" -eq 0 ] || failed=1
}

stage=all
out=benchmarks/results/gpu
limit=570
while [ $# -gt 0 ]; do
  case $1 in
    --stage) [ $# -gt 1 ] || die '--stage needs a value'; stage=$2; shift 2 ;;
    --out) [ $# -gt 1 ] || die '--out needs a value'; out=$2; shift 2 ;;
    --limit) [ $# -gt 1 ] || die '--limit needs a value'; limit=$2; shift 2 ;;
    -h | --help) usage; exit 0 ;;
    --) shift; break ;;
    *) die "unknown argument: $1" ;;
  esac
done
[[ $limit =~ ^[0-9]+$ ]] || die "--limit must be seconds: $limit"
[ "$stage" != all ] || stage=build,test,sanitize,warm,bench
IFS=, read -ra stages <<<"$stage"
for name in "${stages[@]}"; do
  [ -n "${MOST_S[$name]:-}" ] || die "unknown stage: $name"
done
[[ $# -eq 0 || ! ",$stage," =~ ,test,.*,(warm|bench), ]] || die 'arguments after -- are for test or for bench, not both'

mkdir -p "$out" || exit 1
out=$(cd "$out" && pwd) || exit 1
cd "$ROOT" || exit 1
rm -rf "$WORK/logs"
mkdir -p "$WORK/logs" || exit 1
jobs=$(nproc)
jobs=$((jobs < MOST_JOBS ? jobs : MOST_JOBS))
# One thread each: as many processes run as there are cores. The caches outlive the call where the machine does.
export PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1 TORCHINDUCTOR_COMPILE_THREADS=1
export TORCHINDUCTOR_CACHE_DIR="$WORK/cache/inductor" TRITON_CACHE_DIR="$WORK/cache/triton"
summary=() ran=0 failed=0
for name in "${stages[@]}"; do
  keep_bundling >/dev/null 2>&1 &
  keeper=$!
  case $name in
    test | warm | bench | profile) run_stage "$name" "$@" ;;
    *) run_stage "$name" ;;
  esac
  { kill "$keeper" && wait "$keeper"; } 2>/dev/null
  bundle
done
printf '== summary, results in %s\n' "$out"
printf '%s\n' "${summary[@]}"
[ "$failed" -eq 0 ] || exit 1
[ "$ran" -eq 1 ] || exit "$SKIPPED"
