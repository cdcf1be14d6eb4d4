#!/bin/sh
# The whole product in about three minutes: a live stream through Flink, killed in the middle, resumed, reconciled, and certified
# by a backfill of the archive that the stream itself wrote. Where Flink cannot run, a backfill alone is shown.
#
#   deploy/demo.sh FOLDER      FOLDER is made anew; needs .venv (make setup)
set -eu
cd "$(dirname "$0")/.."
demo=$1
kpiflow=.venv/bin/kpiflow
key=layer4_kpi_reports

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
run() { printf '$ kpiflow %s\n' "$*"; "$kpiflow" "$@"; }
has() { command -v "$1" >/dev/null 2>&1; }

install_missing() {
  packages=""
  has redis-server || packages="$packages redis-server"
  has java || packages="$packages openjdk-17-jre-headless"
  has mvn || [ -d .flink/lib ] || packages="$packages maven"
  [ -z "$packages" ] && return 0
  [ "$(id -u)" = 0 ] && has apt-get || { missing=$packages; return 1; }
  say "installing$packages"
  # A package's own server must not start: the demo has one of its own.
  apt-get update -qq && RUNLEVEL=1 apt-get install -y -qq --no-install-recommends $packages >/dev/null || { missing=$packages; return 1; }
}

backfill_alone() {
  say "Two days of reports, backfilled"
  run generate --reports 200000 --agents 50 --seed 1 --output "$demo/archive"
  run backfill --input "$demo/archive" --output "$demo/tables"
  run reconcile "$demo/tables" --input "$demo/archive"
  run show "$demo/tables" --html "$demo/report.html"
}

rm -rf "$demo"
mkdir -p "$demo"
missing=""
if ! install_missing || ! .venv/bin/python -m runners.jars; then
  echo "The stream cannot be shown here: it needs redis-server, Java 17 and Flink's jars ($missing cannot be installed)." >&2
  echo "On Debian: apt-get install redis-server openjdk-17-jre-headless maven; then run this again. Showing the backfill instead." >&2
  backfill_alone
  exit
fi

port=$(.venv/bin/python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
redis=redis://localhost:$port
mkdir "$demo/redis"
redis-server --port "$port" --bind 127.0.0.1 --dir "$demo/redis" --appendonly yes --save "" >"$demo/redis/log" 2>&1 &
server=$!
job=""
sender=""
trap 'kill $job $sender $server 2>/dev/null || true' EXIT
until redis-cli -p "$port" ping >/dev/null 2>&1; do sleep 0.1; done

say "1. A stream through Flink, and 10,000 reports a minute"
stream="stream --redis $redis --stream $key --output $demo/tables --archive $demo/archive"
printf '$ kpiflow %s &\n' "$stream"
"$kpiflow" $stream & job=$!
printf '$ kpiflow generate --redis %s --stream %s --reports 10000 --rate 10000 --agents 50 --seed 1 &\n' "$redis" "$key"
"$kpiflow" generate --redis "$redis" --stream "$key" --reports 10000 --rate 10000 --agents 50 --seed 1 --truth "$demo/truth.json" & sender=$!
sleep 30
until [ -n "$(find "$demo/tables/_stream/checkpoints" -name _metadata 2>/dev/null)" ]; do sleep 1; done

say "2. kill -9 in the middle: everything of the job dies with it"
kill -9 "$job"
wait "$job" 2>/dev/null || true

say "3. The same command goes on from the newest checkpoint"
run $stream --until-idle
wait "$sender"
sender=""

say "4. Is every message in exactly one table?"
run status "$demo/tables" --redis "$redis"
run reconcile "$demo/tables" --redis "$redis" --stream "$key"

say "5. A backfill of the archive that the stream wrote holds the same rows"
run backfill --input "$demo/archive" --output "$demo/again"
run parity "$demo/tables" "$demo/again"

say "6. What came in"
run show "$demo/tables" --html "$demo/report.html"
