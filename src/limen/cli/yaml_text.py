"""Data as YAML text. A module of its own, so that commands which print none do not load YAML."""

from __future__ import annotations

from collections import OrderedDict

import yaml


class _Dumper(yaml.SafeDumper):
    """Ordered mappings (what protobuf's JSON is made of) are mappings."""

    def ignore_aliases(self, data: object) -> bool:
        """Values are written out where they are used: we read no aliases ourselves."""
        del data
        return True


_Dumper.add_representer(OrderedDict, yaml.SafeDumper.represent_dict)


def to_yaml(value: object) -> str:
    """`value` (JSON-able) as one YAML document, keys in their order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
