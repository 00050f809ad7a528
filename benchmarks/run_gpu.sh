#!/usr/bin/env bash
# One session on a machine with an NVIDIA GPU: build in place, test, check memory, measure, profile.
set -o pipefail
set -u

readonly LIMIT_S=470
readonly SKIPPED=77
readonly BENCH_BUDGET_S=400
readonly SUITES=(vae_loss reparameterize corrupt conv_transpose norm_act conv_transpose_loss max_unpool nearest_unpool)
# suites that do not fit one stage
readonly -A SHARDS=([conv_transpose]=10 [norm_act]=5 [conv_transpose_loss]=2 [max_unpool]=6)

readonly IS_SHARD='^(.+)-([0-9]+)of([0-9]+)$'

usage() {
  cat <<'TEXT'
usage: benchmarks/run_gpu.sh [--stage STAGE] [--out DIR] [-- ARGUMENTS]

stages, each under 8 minutes, each printing a short summary last:
  build      builds pyaegpu in place (TORCH_CUDA_ARCH_LIST, default 9.0a)     build.log
  test       pytest -m gpu                                                    test.log
  sanitize   compute-sanitizer memcheck on small awkward shapes               sanitize.log
  bench-SUITE  vae_loss, reparameterize, corrupt, conv_transpose, norm_act, conv_transpose_loss, max_unpool
               or nearest_unpool
                                                      bench-SUITE.log SUITE.json SUITE.md
  bench-SUITE-IofN  every N-th case of that suite from the I-th, where it does not fit one stage
  profile    ncu on one large call per family and GPU backend                 profile.log
  bench      every suite, one stage after another; conv_transpose in 10, norm_act in 5, conv_transpose_loss in 2,
             max_unpool in 6
  all        build, test, bench (default)

ARGUMENTS after -- go to pytest (test) or to python3 -m benchmarks.run (bench), for example
  --stage bench-reparameterize -- --shard 2/2
DIR (default benchmarks/results/gpu) receives at most 3 files of a stage. PYAEGPU_COMMIT names the commit
where the sources have no git repository. Nothing is downloaded, no setting of the card is touched.
Exit code: 0 all right, 1 a stage failed, 2 bad arguments, 77 nothing could run (no GPU, no tool).
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

# logged NAME COMMAND...: runs it under the time limit, everything into NAME.log and to the terminal
logged() {
  local log="$out/$1.log"
  shift
  timeout --kill-after=10 "$LIMIT_S" "$@" 2>&1 | tee -a "$log"
  local rc=${PIPESTATUS[0]}
  if [ "$rc" -eq 124 ] || [ "$rc" -eq 137 ]; then
    printf 'stopped after %s s\n' "$LIMIT_S" | tee -a "$log"
  fi
  return "$rc"
}

build_commands() {
  python3 -m pip install --no-build-isolation --no-deps -e . ||
    python3 setup.py build_ext --inplace || return 1
  python3 -c '
from pyaegpu import backends
for name, reason in backends.status().items():
    print(f"{name}: {reason or str()}" if reason else f"{name}: available")'
}

stage_build() {
  export TORCH_CUDA_ARCH_LIST="${TORCH_CUDA_ARCH_LIST:-9.0a}"
  export -f build_commands
  logged build bash -o pipefail -c build_commands
}

stage_test() {
  has_gpu || { skip 'no GPU'; return; }
  logged test python3 -m pytest tests -m gpu -q -p no:cacheprovider --maxfail=25 --durations=5 "$@"
}

sanitize_commands() {
  local rc=0 backend
  for backend in cuda triton; do
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck --error-exitcode 9 \
      python3 -m benchmarks.smoke --backend "$backend" || rc=1
  done
  return "$rc"
}

stage_sanitize() {
  has_gpu || { skip 'no GPU'; return; }
  command -v compute-sanitizer >/dev/null || { skip 'no compute-sanitizer'; return; }
  export -f sanitize_commands
  logged sanitize bash -o pipefail -c sanitize_commands
}

stage_bench() {
  local name=$1 suite=$1 shard=1/1
  shift
  if [[ $name =~ $IS_SHARD ]]; then
    suite=${BASH_REMATCH[1]} shard=${BASH_REMATCH[2]}/${BASH_REMATCH[3]}
  fi
  has_gpu || { skip 'no GPU'; return; }
  logged "bench-$name" python3 -m benchmarks.run --suite "$suite" --device cuda --out "$out" \
    --budget "$BENCH_BUDGET_S" --shard "$shard" "$@"
}

# the stages that measure every case of every suite
bench_stages() {
  local suite i
  for suite in "${SUITES[@]}"; do
    if [ -z "${SHARDS[$suite]:-}" ]; then
      printf 'bench-%s\n' "$suite"
      continue
    fi
    for ((i = 1; i <= SHARDS[$suite]; i++)); do
      printf 'bench-%s-%sof%s\n' "$suite" "$i" "${SHARDS[$suite]}"
    done
  done
}

is_suite() {
  local name=${1#bench-}
  [[ $name =~ $IS_SHARD ]] && name=${BASH_REMATCH[1]}
  [[ " ${SUITES[*]} " == *" $name "* ]]
}

profile_commands() {
  local rc=0 call
  # the cuda backend has kernels of the first two, of max_unpool, and of conv_transpose those for few output channels
  for call in vae_loss:cuda vae_loss:triton reparameterize:cuda reparameterize:triton corrupt:triton \
    conv_transpose:triton conv_transpose-few:cuda conv_transpose-few:triton norm_act:triton norm_act-block:triton \
    conv_transpose_loss:triton max_unpool:cuda max_unpool:triton max_unpool-pool:cuda max_unpool-pool:triton \
    nearest_unpool:triton; do
    ncu --clock-control none --target-processes all --nvtx --nvtx-include 'profile/' --set detailed \
      python3 -m benchmarks.smoke --backend "${call#*:}" --profile "${call%:*}" || rc=1
  done
  return "$rc"
}

stage_profile() {
  has_gpu || { skip 'no GPU'; return; }
  command -v ncu >/dev/null || { skip 'no ncu'; return; }
  export -f profile_commands
  logged profile bash -o pipefail -c profile_commands >/dev/null
  local rc=$?
  grep -E '^  [A-Za-z_].*\(|Duration|Memory Throughput|DRAM Throughput|Registers Per Thread' "$out/profile.log" |
    head -120
  return "$rc"
}

run_stage() {
  local name=$1 began=$SECONDS rc
  shift
  printf '== %s\n' "$name"
  rm -f "$out/$name.log"
  case $name in
    bench-*) stage_bench "${name#bench-}" "$@" ;;
    *) "stage_$name" "$@" ;;
  esac
  rc=$?
  summary+=("$(printf '%-26s rc %-3s %4s s' "$name" "$rc" "$((SECONDS - began))")")
  [ "$rc" -eq "$SKIPPED" ] && return
  ran=1
  [ "$rc" -eq 0 ] || failed=1
}

stage=all
out=benchmarks/results/gpu
while [ $# -gt 0 ]; do
  case $1 in
    --stage) [ $# -gt 1 ] || die '--stage needs a value'; stage=$2; shift 2 ;;
    --out) [ $# -gt 1 ] || die '--out needs a value'; out=$2; shift 2 ;;
    -h | --help) usage; exit 0 ;;
    --) shift; break ;;
    *) die "unknown argument: $1" ;;
  esac
done
mapfile -t suites < <(bench_stages)
case $stage in
  build | test | sanitize | profile) stages=("$stage") ;;
  bench) stages=("${suites[@]}") ;;
  bench-*) is_suite "$stage" || die "unknown stage: $stage"; stages=("$stage") ;;
  all) stages=(build test "${suites[@]}") ;;
  *) die "unknown stage: $stage" ;;
esac
[ "$stage" != all ] || [ $# -eq 0 ] || die 'arguments after -- need one --stage'

mkdir -p "$out" || exit 1
out=$(cd "$out" && pwd) || exit 1
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
export PYTHONUNBUFFERED=1
summary=() ran=0 failed=0
for name in "${stages[@]}"; do
  run_stage "$name" "$@"
done
printf '== summary, results in %s\n' "$out"
printf '%s\n' "${summary[@]}"
[ "$failed" -eq 0 ] || exit 1
[ "$ran" -eq 1 ] || exit "$SKIPPED"
