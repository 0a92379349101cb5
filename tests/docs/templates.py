#!/usr/bin/env python3
"""Renders Home Assistant's templates of edgewatt, as Home Assistant does: Jinja, in a sandbox, with a warning for what is
not defined. Reads {"templates": [[TEMPLATE, PAYLOAD], ...]} on standard input, and writes a list of [TEXT, WARNINGS]."""

import functools
import json
import sys

from jinja2 import Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

warnings = []


class Warned(Undefined):
    """A value that is not defined: to show it, or to ask it for true or false, is a warning in Home Assistant's log."""

    def _warn(self):
        warnings.append(self._undefined_message)

    def __str__(self):
        self._warn()
        return super().__str__()

    def __iter__(self):
        self._warn()
        return super().__iter__()

    def __bool__(self):
        self._warn()
        return super().__bool__()


environment = ImmutableSandboxedEnvironment(undefined=Warned)
compiled = functools.cache(environment.from_string)
results = []
for template, payload in json.load(sys.stdin)["templates"]:
    warnings.clear()
    message = {} if payload is None else {"value_json": payload}
    text = compiled(template).render(value=json.dumps(payload), **message)
    results.append([text, list(warnings)])
json.dump(results, sys.stdout)
