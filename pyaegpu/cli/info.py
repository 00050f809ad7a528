"""`pyaegpu info`."""

import argparse
import json
from collections.abc import Mapping
from typing import Any


def add_parser(commands: Any) -> None:
    """Adds the sub-command."""
    parser = commands.add_parser(
        "info",
        help="what was built and what can run here",
        description="Prints versions, what was built, and every backend with the reason where it is missing.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Prints pyaegpu.info.info()."""
    from pyaegpu.info import info

    facts = info()
    print(json.dumps(facts, indent=2, default=str) if arguments.json else "\n".join(format_facts(facts)))


def format_facts(facts: Mapping[str, Any], indent: str = "") -> list[str]:
    """Aligned `name  value` lines; a nested mapping follows its name, indented."""
    width = max((len(str(name)) for name in facts), default=0)
    lines: list[str] = []
    for name, value in facts.items():
        if isinstance(value, Mapping) and value and not _is_status(value):
            lines += [f"{indent}{name}", *format_facts(value, indent + "  ")]
        else:
            lines.append(f"{indent}{name:<{width}}  {_format_value(value)}".rstrip())
    return lines


def _is_status(value: Mapping[str, Any]) -> bool:
    return value.keys() == {"available", "reason"}


def _format_value(value: object) -> str:
    if isinstance(value, Mapping) and value and _is_status(value):
        return "available" if value["available"] else f"not available: {value['reason']}"
    if value is None or (isinstance(value, (list, tuple, Mapping)) and not value):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return str(value)
