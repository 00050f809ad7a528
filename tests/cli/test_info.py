"""`pyaegpu info`."""

import json

from pyaegpu.cli.info import format_facts
from pyaegpu.cli.main import main


def test_text_and_json_tell_the_same(capsys):
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    names = [line.split()[0] for line in text.splitlines() if not line.startswith(" ")]
    assert names == list(facts)
    for name, backend in facts["backends"].items():
        line = next(line for line in text.splitlines() if line.startswith(f"  {name} ") and "available" in line)
        assert ("not available" in line) == (not backend["available"])
        assert backend["available"] or backend["reason"] in line


def test_facts_are_aligned_and_nested():
    facts = {
        "torch": "2.13",
        "nothing": None,
        "list": [8.0, "9.0a"],
        "empty": [],
        "group": {"on": True, "deeper": {"a": 1}},
        "backends": {
            "cpu": {"available": True, "reason": None},
            "cuda": {"available": False, "reason": "no driver"},
        },
    }
    assert format_facts(facts) == [
        "torch     2.13",
        "nothing   none",
        "list      8.0, 9.0a",
        "empty     none",
        "group",
        "  on      yes",
        "  deeper",
        "    a  1",
        "backends",
        "  cpu   available",
        "  cuda  not available: no driver",
    ]
