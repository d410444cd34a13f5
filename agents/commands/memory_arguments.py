"""`stillknows memory`: look into memories, take them out and in, compare, and delete for good.

stillknows memory ls runs/microworld-1/both-seed0
stillknows memory show runs/microworld-1/both-seed0 17
stillknows memory export runs/microworld-1/both-seed0@120 > memory.jsonl
stillknows memory import other/memory.sqlite memory.jsonl
stillknows memory diff runs/microworld-1/both-seed0@120 runs/microworld-1/both-seed0
stillknows memory delete runs/microworld-1/both-seed0 --episode 4 --task 0

A memory is a file of SQLite, a kept agent (.safetensors), the folder of a life, or postgres:NAME;
behind an @ stands the operation after which it is looked at.
"""

import argparse
from pathlib import Path
from typing import Any


def add_parser(commands: Any) -> None:
    """Add the command to a command line's."""
    parser = commands.add_parser("memory", help="look into memories, and delete from them")
    parser.description = __doc__.partition("\n\n")[2]
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    actions = parser.add_subparsers(dest="action", required=True)
    ls = _action(actions, "ls", "list entries and where they came from")
    ls.add_argument("--task", type=int, help="only of this task")
    ls.add_argument("--episode", type=int, help="only of this episode")
    ls.add_argument("--limit", type=int, default=0, metavar="N", help="at most N, the newest")
    show = _action(actions, "show", "tell all about entries")
    show.add_argument("ids", type=int, nargs="+", metavar="ID")
    _action(actions, "export", "write a memory as lines of JSON")
    taken = _action(actions, "import", "merge exported lines into a memory")
    taken.add_argument("lines", type=Path, metavar="FILE", help="that export wrote; -: what comes")
    taken.add_argument(
        "--keep", choices=("used", "newest"), default="used", help="who stays if there is no room"
    )
    diff = _action(actions, "diff", "compare two memories, or one at two times")
    diff.add_argument("second", metavar="MEMORY[@OPERATION]")
    delete = _action(actions, "delete", "delete entries for good")
    delete.add_argument("--entry", type=int, nargs="+", default=[], metavar="ID")
    delete.add_argument("--episode", type=int, help="all that ever came from this episode")
    delete.add_argument("--task", type=int, help="of this task")
    delete.add_argument(
        "--also", type=Path, nargs="+", default=[], metavar="FOLDER", help="with copies of it"
    )


def _action(actions: Any, name: str, does: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=does, description=does)
    parser.add_argument("memory", metavar="MEMORY[@OPERATION]")
    parser.add_argument("--agent", type=Path, metavar="FILE", help="a kept agent that reads it")
    return parser
