#!/bin/sh
# subscriber.sh [HOST [PORT]]: prints each prediction with its score, and the energy per inference of every pipeline.
#
# Needs mosquitto_sub. Topics and fields: docs/mqtt.md. A program of your own should parse the JSON (subscriber.py does);
# sed is enough to look at it.
set -eu

prediction='s|^edgewatt/([^/]*)/p/([^/]*)/prediction .*"label":"([^"]*)","score":([^,]*),.*|\1/\2 label=\3 score=\4|p'
# The first meter's figure. gross_j is null until there is one.
energy='s|^edgewatt/([^/]*)/p/([^/]*)/metrics .*"energy":\[\{[^}]*"status":"([^"]*)"[^}]*"gross_j":([^,]*),.*|\1/\2 energy_j=\4 (\3)|p'

mosquitto_sub -h "${1:-127.0.0.1}" -p "${2:-1883}" -v \
    -t 'edgewatt/+/p/+/prediction' -t 'edgewatt/+/p/+/metrics' |
    sed -u -n -E -e "$prediction" -e "$energy"
