"""home_assistant.py PORT: a Home Assistant whose only integration is MQTT, with a broker on 127.0.0.1:PORT.

Runs inside the root that tests/vm/home-assistant makes. Prints a line of JSON for each line on standard input: the states of
all MQTT entities, and what it has warned of so far. Ends with its input.
"""

import asyncio
import json
import logging
import pathlib
import sys
import tempfile
from types import MappingProxyType

from homeassistant import bootstrap, config_entries, core, loader
from homeassistant.helpers import entity_registry

# Parts that are no business of MQTT's, and complain because this installation is small.
NOT_OURS = ("frontend", "aiohttp_fast_zlib", "zlib_ng", "backup", "setup", "bootstrap")


class Warnings(logging.Handler):
    def __init__(self):
        super().__init__(logging.WARNING)
        self.lines = []

    def emit(self, record):
        if not any(part in record.name for part in NOT_OURS):
            self.lines.append(f"{record.name}: {record.getMessage()}")


async def started(port):
    hass = core.HomeAssistant(tempfile.mkdtemp())
    hass.config.skip_pip = True
    pathlib.Path(hass.config.path("configuration.yaml")).touch()
    loader.async_setup(hass)
    hass.config_entries = config_entries.ConfigEntries(hass, {})
    await bootstrap.async_load_base_functionality(hass)
    await bootstrap.async_from_config_dict({"homeassistant": {}}, hass)
    await hass.async_start()
    entry = config_entries.ConfigEntry(
        version=2,
        minor_version=1,
        domain="mqtt",
        title="broker",
        data={"broker": "127.0.0.1", "port": port},
        source="user",
        options={"discovery": True, "discovery_prefix": "homeassistant"},
        unique_id=None,
        discovery_keys=MappingProxyType({}),
        subentries_data=None,
    )
    await hass.config_entries.async_add(entry)
    return hass


def report(hass, warnings):
    registry = entity_registry.async_get(hass)
    ours = {entity.entity_id for entity in registry.entities.values() if entity.platform == "mqtt"}
    states = {s.entity_id: {"state": s.state, **s.attributes} for s in hass.states.async_all() if s.entity_id in ours}
    return json.dumps({"states": states, "warnings": warnings.lines}, default=str)


async def main():
    warnings = Warnings()
    logging.getLogger().addHandler(warnings)
    hass = await started(int(sys.argv[1]))
    while await hass.async_add_executor_job(sys.stdin.readline):
        print(report(hass, warnings), flush=True)
    await hass.async_stop(force=True)


asyncio.run(main())
