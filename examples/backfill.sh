#!/bin/sh
# From generated messages to tables, in the present folder: make them, prove them complete, compare two ways to make them.
set -eu
kpiflow generate --reports 5000 --agents 5 --seed 7 --span 6h --output example/archive
kpiflow validate example/archive
kpiflow backfill --input example/archive --output example/tables
kpiflow reconcile example/tables --input example/archive

# The same messages in two runs, the later hours first, give the same rows.
kpiflow backfill --input 'example/archive/*T0[345].ndjson' --output example/again
kpiflow backfill --input example/archive --output example/again
kpiflow parity example/tables example/again --identity
