"""ask the judge of a scoring some of its questions again: does it agree with itself?"""

from __future__ import annotations

from editr2_jax.cli import common


def main(argv: list[str]) -> int:
    """`python -m editr2_jax agreement --workdir=OUT [--questions=100] [--times=5] [--seed=0] [--config.rewards.vlm.a=VALUE ...]`

    OUT is a workdir of `score`. Each question is asked --times times as new votes; overrides change how the judge is asked, such as its
    temperature, for this alone. Writes OUT/agreement.json.
    """
    parser = common.Parser("agreement", main.__doc__, workdir=True)
    parser.add_argument("--questions", type=int, default=100, metavar="N", help="how many questions (default: 100)")
    parser.add_argument("--times", type=int, default=5, metavar="K", help="how often each is asked (default: 5)")
    parser.add_argument("--seed", type=int, default=0, help="which questions, and the numbers of the votes (default: 0)")
    overrides, rest = common.split_overrides(argv)
    args = parser.parse(rest)
    config, again = common.saved_config(args.workdir), common.saved_config(args.workdir)
    for name, value in overrides:
        common.override(again, name, value)
    from editr2_jax import benchmarking
    from editr2_jax.evaluation.benchmarks import rendering

    workdir = common.workdirs.writable(args.workdir)
    with common.workdirs.exclusive(workdir):
        found = benchmarking.agreement(
            config, workdir, count=args.questions, times=args.times, seed=args.seed, say=lambda text: print(text, flush=True), again=again
        )
    number = lambda value: "–" if value is None else f"{value:.3f}"  # noqa: E731
    rows = [
        [
            kind,
            str(told["questions"]),
            number(told["agreement"]["mean"]),
            number(told["unanimous"]),
            number(told["fleiss"]),
            number(told["cohen"]),
        ]
        + [str(told["unreadable"]), str(told["unanswered"])]
        for kind, told in found["kinds"].items()
    ]
    head = ["question", "n", "agreement", "unanimous", "Fleiss' kappa", "Cohen's kappa", "unreadable", "unanswered"]
    print(rendering.side_by_side(head, rows))
    print(workdir / benchmarking.AGREEMENT)
    return 0
