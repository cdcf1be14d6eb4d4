#!/bin/sh
# A tour of about three minutes: two hours of history, then a live stream through Flink that is killed in the
# middle, resumed, reconciled, and compared to a backfill of everything. Without Flink only a backfill is shown.
# It ends with the page of the service: on a terminal until Ctrl-C, otherwise with a picture of it.
#
#   deploy/demo.sh FOLDER      FOLDER is emptied first; needs .venv (make setup)
set -eu
cd "$(dirname "$0")/.."
demo=$1
kpiflow=.venv/bin/kpiflow
key=layer4_kpi_reports
keys="$key layer4_tasks layer4_results layer4_agents layer4_health"

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
run() { printf '$ kpiflow %s\n' "$*"; "$kpiflow" "$@"; }

# Exit code 1 of `quality` is a finding: some of the generated messages are broken on purpose.
check_quality() {
  run quality "$1" || [ $? -eq 1 ]
  run quality "$1" --rule cpu_over_quota --limit 3
}

free_port() {
  .venv/bin/python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# Leave out what would be received from now on, such as results that are late: it would come during the stream,
# perhaps with the id of one of the stream's own messages.
drop_future() {
  now=$(date -u +%Y-%m-%dT%H:%M:%SZ)
  for file in "$1"/*.ndjson; do
    awk -F '"received_at":"' -v now="$now" '{ split($2, time, "\""); if (time[1] < now) print }' "$file" >"$file.past"
    mv "$file.past" "$file"
  done
  echo "what would be received after $now is left out: the stream begins then"
}

# Serve the page beside everything that follows. Options are those of `kpiflow serve`.
start_page() {
  address=127.0.0.1:$(free_port)
  printf '$ kpiflow serve %s --listen %s --insecure-loopback %s &\n' "$demo/tables" "$address" "$*"
  "$kpiflow" serve "$demo/tables" --listen "$address" --insecure-loopback "$@" >"$demo/serve.log" 2>&1 & page=$!
  until grep -q "is served" "$demo/serve.log"; do
    kill -0 "$page" 2>/dev/null || { cat "$demo/serve.log" >&2; exit 1; }
    sleep 0.1
  done
  echo "Open http://$address to follow what happens."
}

draw_page() {
  .venv/bin/python -m tests.browser "http://$address" "$demo/page.png" --height 1160 "$@" || echo "The page was not drawn." >&2
}

end_with_page() {
  if [ -t 1 ]; then
    say "The page: http://$address, until Ctrl-C"
    trap 'exit 0' INT
    wait "$page"
  elif [ -e "$demo/page.png" ]; then
    say "A picture of the page: $demo/page.png"
  fi
}

job=""
sender=""
server=""
page=""
picture=""
trap 'kill $job $sender $picture $page $server 2>/dev/null || true' EXIT

backfill_alone() {
  say "Two days of reports with their tasks, results and agents, backfilled"
  run generate --records --reports 100000 --agents 50 --seed 1 --output "$demo/archive"
  run backfill --input "$demo/archive" --output "$demo/tables"
  run reconcile "$demo/tables" --input "$demo/archive"
  run show "$demo/tables" --html "$demo/report.html"
  check_quality "$demo/tables"
  start_page
  [ -t 1 ] || draw_page
  end_with_page
}

rm -rf "$demo"
mkdir -p "$demo"
if ! deploy/install.sh redis-server java || ! make --no-print-directory flink; then
  echo "A stream cannot run here (see above), so the demo shows a backfill." >&2
  backfill_alone
  exit
fi

port=$(free_port)
redis=redis://localhost:$port
mkdir "$demo/redis"
redis-server --port "$port" --bind 127.0.0.1 --dir "$demo/redis" --appendonly yes --save "" >"$demo/redis/log" 2>&1 &
server=$!
until redis-cli -p "$port" ping >/dev/null 2>&1; do sleep 0.1; done

say "1. The past two hours, backfilled: the agents' history, with the tasks and results of their reports"
began=$(.venv/bin/python -c 'from datetime import *; print((datetime.now(UTC) - timedelta(hours=2)).strftime("%Y-%m-%dT%H:%M:%SZ"))')
run generate --records --output "$demo/history" --reports 20000 --start "$began" --span 2h --agents 50 --late 0 --seed 1
drop_future "$demo/history"
run backfill --input "$demo/history" --output "$demo/tables" --file-minutes 1
start_page --redis "$redis"

say "2. A stream through Flink into the same tables, and 10,000 reports a minute with their records"
stream="stream --redis $redis --stream $keys --output $demo/tables --archive $demo/archive --live"
printf '$ kpiflow %s &\n' "$stream"
"$kpiflow" $stream & job=$!
sending="generate --records --redis $redis --stream $key --reports 10000 --rate 10000 --agents 50 --seed 1 --warm --truth $demo/truth.json"
printf '$ kpiflow %s &\n' "$sending"
"$kpiflow" $sending & sender=$!
[ -t 1 ] || draw_page --live & picture=$!
sleep 30
until [ -n "$(find "$demo/tables/_stream/checkpoints" -name _metadata 2>/dev/null)" ]; do sleep 1; done

say "3. kill -9 in the middle: everything of the job dies with it"
kill -9 "$job"
wait "$job" 2>/dev/null || true

say "4. The same command goes on from the newest checkpoint"
run $stream --until-idle
wait "$sender"
wait "$picture"
picture=""
sender=""

say "5. Is every message in exactly one table?"
run status "$demo/tables" --redis "$redis"
run reconcile "$demo/tables" --redis "$redis" --stream $keys --input "$demo/history"

say "6. One backfill of the history and of the archive that the stream wrote gives the same tables"
run backfill --input "$demo/history" "$demo/archive" --output "$demo/again"
run parity "$demo/tables" "$demo/again"

say "7. What came in"
run show "$demo/tables" --html "$demo/report.html"

say "8. How good are the data, and which reports do not fit their tasks?"
check_quality "$demo/tables"
end_with_page
