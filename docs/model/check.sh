#!/usr/bin/env bash
# Checks turn.pml: docs/model/check.sh [case…]; without one, all but `long`. Needs spin and gcc.
# A case that `holds` must have no error in all of its states, one that `breaks` must have a counterexample.
set -euo pipefail
model="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/turn.pml"

readonly SAFETY="-DSAFETY -DNOCLAIM" FAIR="-DNFAIR=4"
readonly LIMIT_SECONDS="${MODEL_LIMIT_SECONDS:-100}" # the slowest case takes 5 on an idle core
readonly DEEP=200000                                  # steps of the longest run; 800 were seen

# Sets `expected`, `flags` (for spin), `how` (for gcc) and `search` (for the verifier).
choose() {
    expected=breaks how="$SAFETY" search=()
    case "$1" in
        safety) expected=holds flags=() ;;
        deaths) expected=holds flags=(-DFAULTS=2 -DKINDS=1) ;;
        ends) expected=holds flags=(-DKINDS=13) how="$FAIR" search=(-a -f) ;;
        late-text) expected=holds flags=(-DWHOLE_TEXT) ;;
        no-log-fence) flags=(-DNO_LOG_FENCE) ;;
        no-attempt-check) flags=(-DNO_ATTEMPT_CHECK) ;;
        no-atomic-settle) flags=(-DNO_ATOMIC_SETTLE) ;;
        claim-of-a-lapsed-turn) flags=(-DCLAIM_LAPSED) ;;
        same-attempt) flags=(-DWHOLE_TEXT -DSAME_ATTEMPT) ;;
        no-reset-at-start) flags=(-DWHOLE_TEXT -DNO_RESET_AT_START) ;;
        long) expected=holds flags=(-DFAULTS=2) how="$SAFETY -DHC4 -DMEMLIM=6000" ;;
        *) printf 'there is no case %s; see docs/model/README.md\n' "$1" >&2 && exit 2 ;;
    esac
}

check() {
    local expected how flags search found states
    choose "$1"
    cd "$(mktemp -d "$scratch/XXXXXX")"
    spin "${flags[@]}" -a "$model" >spin.log || { cat spin.log >&2; return 1; }
    # shellcheck disable=SC2086  # flags, each a word
    # A counterexample is found sooner than the compiler is done with its optimizations.
    gcc "$([[ "$expected" == holds ]] && echo -O1 || echo -O0)" -w -DMEMLIM=3000 $how -o pan pan.c
    timeout "$LIMIT_SECONDS" ./pan "-m$DEEP" "${search[@]}" >pan.log 2>&1 || true
    # A search that ran out of depth, memory or time has proved nothing.
    if grep -qE 'max search depth too small|out of memory|^error:|reached -DMEMLIM' pan.log; then
        found=undecided
    elif grep -qE 'errors: [1-9]' pan.log && grep -qE 'assertion violated|acceptance cycle' pan.log; then
        found=breaks
    elif grep -qE 'errors: 0$' pan.log && ! grep -q 'Search not completed' pan.log; then
        found=holds
    else
        found=undecided
    fi
    states="$(sed -nE 's/^ *([0-9.e+]+) states, stored.*/\1/p' pan.log | head -n 1)"
    printf '%-24s %-10s %9s states  %s\n' "$1" "$found" "${states:-no}" \
        "$(grep -m 1 -oE 'assertion violated.*\)|acceptance cycle' pan.log | cut -c1-60 || true)"
    if [[ "$found" != "$expected" ]]; then
        printf '%s should be: %s\n' "$1" "$expected" >&2
        if [[ -e turn.pml.trail ]]; then
            spin "${flags[@]}" -t -p "$model" | grep -E 'proc +[0-9]+ \(' | tail -n 80 >&2
        fi
        return 1
    fi
}

scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
if (($# == 0)); then
    set -- safety deaths ends late-text no-log-fence no-attempt-check no-atomic-settle claim-of-a-lapsed-turn \
        same-attempt no-reset-at-start
fi
status=0
for name in "$@"; do
    (check "$name") || status=1
done
exit "$status"
