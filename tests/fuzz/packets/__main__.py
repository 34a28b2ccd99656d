"""A million packets, right and wrong, through the real programs and through the twin: they must agree on every one.

python -m tests.fuzz.packets [--packets N] [--seconds S] [--seed N] [--episode N]
"""

from __future__ import annotations

import argparse
import sys
import time

from services.datapath.reports import DropReason
from tests.fuzz.packets.duel import Score, new_duel
from tests.kernel.rig import why_not

_SHOWN = 10


def run(packets: int, seconds: float, seed: int, first: int = 0) -> Score:
    """Compare that many packets, or as many as the time allows, or until too much differs."""
    with new_duel(seed) as duel:
        began_s, episode = time.monotonic(), first
        while duel.score.packets < packets and time.monotonic() - began_s < seconds:
            duel.episode(episode)
            episode += 1
            if len(duel.score.disagreements) >= _SHOWN:
                break
        return duel.score


def _tell(score: Score, seed: int, elapsed_s: float) -> None:
    print(f"{'what became of it':32} {'packets':>10}")
    for fate, packets in score.fates.most_common():
        kind, _, reason = fate.partition(" ")
        word = DropReason(int(reason)).name.lower().replace("_", " ") if int(reason or 0) else "without a word"
        print(f"{f'{kind} {reason}: {word}' if reason else f'passed: {kind}':32} {packets:10}")
    for line in score.disagreements:
        print(line, file=sys.stderr)
    dropped = sum(packets for fate, packets in score.fates.items() if fate.startswith("dropped"))
    print(f"\nseed={seed}\npackets={score.packets}\nflows={score.flows}\nseconds={elapsed_s:.0f}")
    print(f"passed={score.packets - dropped}\ndropped={dropped}\nrefused_by_test_run={score.refused}")
    print(f"passed_forbidden={score.let_through}\ndisagreements={len(score.disagreements)}")


def main() -> int:
    """Run, and tell what became of the packets; exit status 1 on the first episode with a disagreement."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--packets", type=int, default=1_000_000)
    options.add_argument("--seconds", type=float, default=900)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--episode", type=int, default=0, help="begin with this one, to repeat what was found")
    chosen = options.parse_args()
    if reason := why_not():
        print(f"the packet fuzz needs the real kernel: {reason}", file=sys.stderr)
        return 2
    began_s = time.monotonic()
    score = run(chosen.packets, chosen.seconds, chosen.seed, chosen.episode)
    _tell(score, chosen.seed, time.monotonic() - began_s)
    return 1 if score.disagreements else 0


if __name__ == "__main__":
    sys.exit(main())
