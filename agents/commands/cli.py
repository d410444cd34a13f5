"""The command line: `stillknows COMMAND`; each imports what it needs only when it runs.

stillknows train                        the main job
stillknows train debug=tiny             a whole lifetime in under a minute
stillknows sweep seeds=[0,1] orders=[0,1]     many lifetimes, and on after a stop
stillknows report runs/microworld-1     the report again, from the logs alone
stillknows check working_memory=dnc     whether a memory keeps its contract
stillknows train resume=runs/NAME       a run that was stopped goes on
stillknows verify-resume debug=tiny     whether lives that are cut end as those that are not
stillknows solve experiment=copy        a memory alone learns an algorithmic task
stillknows talk AGENT                   a dialogue with an agent that was kept
stillknows replay RUN working_policy=X  another policy over a log of memory operations
stillknows memory ls RUN/LIFE           what a memory holds; also show, export, import, diff, delete
stillknows explain LIFE question=N      what was read for an answer, and why it was forgotten
"""

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from stillknows.agents.commands.memory_arguments import add_parser as add_memory_parser
from stillknows.agents.persistence.stopping import Stopped

EXPECTED = (ValueError, OSError)
COMMANDS = (  # those that take Hydra overrides
    (
        "train",
        "live lifetimes and report on them",
        "Options are Hydra overrides: stream=babi arms=[both,none] seeds=[0,1,2] debug=tiny "
        "experiment=NAME learner.learning_rate=0.001 run=FOLDER device=cuda …; resume=RUN goes on "
        "with a run that was stopped.",
    ),
    (
        "verify-resume",
        "see whether lives that are cut end as those that are not",
        "Options are Hydra overrides, as for train. Every life is lived twice, once with its "
        "process killed at random moments, and all that is left is compared.",
    ),
    (
        "sweep",
        "live arms × streams × seeds × orders and report on them",
        "Options are Hydra overrides, as for train, and lists of what is lived with one another: "
        "streams=[microworld,stress] arms=[both,none] seeds=[0,1,2] orders=[0,1]. The same command "
        "with run=FOLDER of a sweep that stopped goes on with it.",
    ),
    (
        "check",
        "see whether a memory keeps its contract",
        "Options are Hydra overrides, as for train; checked are the memories that they are about, "
        "or both: working_memory=NAME episodic_memory=NAME …",
    ),
    (
        "solve",
        "let a memory alone learn an algorithmic task",
        "Options are Hydra overrides: experiment=copy working_memory=ntm seeds=[0,1,2] "
        "learner.updates=20000 run=FOLDER …",
    ),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; a mistake of the user's is one sentence and status 2."""
    options = _parser().parse_args(arguments)
    try:
        status = _run(options)
        sys.stdout.flush()  # here, where it is told that nobody reads on
        return status
    except BrokenPipeError:
        return _unread()
    except EXPECTED as error:
        print(f"stillknows: {error}", file=sys.stderr)
        return 2
    except Stopped as stop:
        print(f"stillknows: {stop.told}", file=sys.stderr)
        return stop.status
    except KeyboardInterrupt:
        print("stillknows: stopped.", file=sys.stderr)
        return 130


def _run(options: argparse.Namespace) -> int:
    """Run the command that was chosen; return its status."""
    if options.command in ("train", "sweep", "solve"):  # a module with a function of its name
        module = importlib.import_module(f"stillknows.agents.commands.{options.command}")
        getattr(module, options.command)(options.overrides)
    elif options.command == "check":
        from stillknows.agents.commands.check import check

        return check(options.overrides, options.steps)
    elif options.command == "verify-resume":
        from stillknows.agents.commands.verify import verify_resume

        return verify_resume(options.overrides, options.cuts, options.seed)
    elif options.command == "talk":
        from stillknows.agents.dialogue import talk

        talk(_file_of(options.agent), sys.stdin, sys.stdout, options.memory, options.allow)
    elif options.command == "memory":
        from stillknows.agents.commands.memory_command import run

        run(options)
    elif options.command == "replay":
        from stillknows.agents.commands.replay import replay_runs

        given = options.given
        runs = [Path(each) for each in given if "=" not in each]
        overrides = [each for each in given if "=" in each]
        print(replay_runs(runs, overrides, options.slots, options.learn, options.allow))
    elif options.command == "explain":
        from stillknows.agents.commands.explain import explain

        print(explain(options.life, options.question, options.allow))
    else:
        _report(options.runs, options.out or options.runs[0], options.apart)
    return 0


def _unread() -> int:
    """Let go of what nobody reads any more, as of a pipe into `head`; return the status."""
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (until the end)
    return 128 + signal.SIGPIPE


def _file_of(agent: Path) -> Path:
    """Return the file of an agent that was kept.

    Raises:
        ValueError: if there is only a folder, or nothing; it names a file in the folder.
    """
    if agent.is_file():
        return agent
    if not agent.is_dir():
        raise ValueError(f"There is no file {agent}: give RUN/ARM-seedN/agent.safetensors.")
    kept = next(iter(sorted(agent.glob("*/agent.safetensors"))), agent / "agent.safetensors")
    if kept.is_file():
        raise ValueError(f"{agent} is a folder, not an agent: give the file, such as {kept}.")
    raise ValueError(
        f"{agent} is a folder in which no agent was kept: give RUN/ARM-seedN/agent.safetensors of "
        "a life that has ended with keep=true."
    )


def _report(runs: list[Path], out: Path, apart: bool) -> None:
    from stillknows.agents.commands import solve
    from stillknows.agents.reports import report
    from stillknows.agents.reports.log import begins_with

    if begins_with(runs) == "solving":
        print(solve.write_report(runs, out))
    else:
        print(report.write_report(runs, out, apart))
    print(f"Written to {out / 'report.md'}.")


class _Parser(argparse.ArgumentParser):
    """A parser whose help also tells, when it is asked for, what can be chosen for a command."""

    chosen_for = ""

    def format_help(self) -> str:
        """Return the help."""
        if not self.chosen_for:
            return super().format_help()
        from stillknows.agents.choices import told

        return f"{super().format_help()}\n{told(self.chosen_for)}"


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="stillknows", description="Train agents on streams of tasks; see what they still know."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, does, description in COMMANDS:
        command = commands.add_parser(name, help=does, description=description)
        command.chosen_for = "solve" if name == "solve" else "train"
        command.add_argument("overrides", nargs="*", metavar="name=value")
        if name == "check":
            command.add_argument(
                "--steps", type=int, default=10_000, help="of the long run (10000)"
            )
        if name == "verify-resume":
            command.add_argument("--cuts", type=int, default=3, help="of each life (3)")
            command.add_argument("--seed", type=int, default=0, help="of the moments (0)")
    report = commands.add_parser("report", help="report on runs again, from their logs alone")
    report.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    report.add_argument("--out", type=Path, help="folder for the report (the first run's)")
    report.add_argument(
        "--apart",
        action="store_true",
        help="a section for each stream, where runs differ in streams or budgets",
    )
    replay = commands.add_parser("replay", help="drive memory policies over logged operations")
    replay.description = (
        "Tells what share of the use to come each policy keeps: working_policy=NAME, as often as "
        "there are policies, or working_policy=RUN/…/agent.safetensors for one that has learned, "
        "or working_policy._target_=MODULE.CLASS for one of your own. Logs are "
        "written by stillknows train operations=N."
    )
    replay.add_argument("given", nargs="+", metavar="RUN|name=value")
    replay.add_argument("--slots", type=int, help="the budget (as it was)")
    replay.add_argument(
        "--learn",
        type=Path,
        metavar="FILE",
        help="learn a small policy from the first half of the logs, compare all on the second, and "
        "keep it for working_policy=offline working_policy.weights=FILE",
    )
    _add_allow(replay)
    _add_tellers(commands)
    add_memory_parser(commands)
    return parser


def _add_allow(command: _Parser) -> None:
    """Let a command that loads an agent be told what it may import for it."""
    command.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="MODULE",
        help="one of your own, or that you trust, whose classes the file may name",
    )


def _add_tellers(commands: "argparse._SubParsersAction[_Parser]") -> None:
    """Add the commands that load an agent that was kept."""
    explain = commands.add_parser("explain", help="show why a question was answered as it was")
    explain.description = (
        "Shows what was read for one answer, with which weight, from when, and what became of what "
        "the question stands on: a table, and a heat map in the folder of the life. Without a "
        "question it lists those that were forgotten, with their cause."
    )
    explain.add_argument("life", type=Path, metavar="LIFE", help="RUN/ARM-seedN")
    explain.add_argument(
        "question",
        nargs="?",
        metavar="question=TASK:EPISODE:STEP",
        help="or question=N, the number of a wrong answer",
    )
    talk = commands.add_parser("talk", help="hold a dialogue with an agent that was kept")
    talk.description = (
        "Say one sentence a line; lines that end in ? are answered, a line =ANSWER says what the "
        "last answer should have been, an empty line begins another story."
    )
    talk.add_argument("agent", type=Path, metavar="AGENT", help="RUN/ARM-seedN/agent.safetensors")
    talk.add_argument("--memory", metavar="PLACE", help="a database in which it lives on")
    for command in (explain, talk):
        _add_allow(command)


if __name__ == "__main__":
    sys.exit(main())
