package main

import (
	"strings"

	"github.com/alecthomas/kong"
)

// examples are shown in the help of each command. A test runs them, so that they stay
// right. They are for a POSIX shell.
var examples = map[string][]string{
	"demo": {
		"kooworker demo",
		"kooworker demo --tasks 5000 --stay  # look around in the dashboard",
	},
	"worker": {
		"KOODRIVE_TOKEN_FILE=token kooworker worker --koodrive-url https://koodrive.example.com",
		"kooworker worker --admin-addr 127.0.0.1:8080 --rate 150  # with KOODRIVE_URL in the environment",
	},
	"status": {
		"kooworker status",
		"kooworker status --watch",
		"kooworker status --json | jq -e .ok  # fails if something is wrong",
	},
	"enqueue unbind": {
		"kooworker enqueue unbind --user-id u-1 --device-id 1775406005920779393",
		"kooworker enqueue unbind --file devices.csv --batch deletions-2026-11 --rejects bad.csv",
		"psql -c 'COPY devices TO STDOUT CSV HEADER' | kooworker enqueue unbind --file - --wait",
		"kooworker enqueue unbind --file - --follow  # answers each JSON line with one",
	},
	"enqueue release": {
		"kooworker enqueue release --user-id u-1 --lock-id 78e41c7e-db02-4d55-85b3-8153e4fefd2e@102",
		"kooworker enqueue release --file locks.csv --urgent",
	},
	"enqueue offboard": {
		"kooworker enqueue offboard --user-id u-1 --in 30d",
		"kooworker enqueue offboard --file users.csv --batch accounts-2026-11 --wait",
	},
	"cancel": {
		"kooworker cancel --user-id u-1 --dry-run",
		"kooworker cancel --id device:unbind:u-1:1775406005920779393",
	},
	"batch list": {
		"kooworker batch list",
		"kooworker batch list --json | jq 'select(.dead > 0)'",
	},
	"batch show": {
		"kooworker batch show deletions-2026-11",
		"kooworker batch show deletions-2026-11 --json | jq .queued",
	},
	"batch watch": {"kooworker batch watch deletions-2026-11"},
	"batch wait": {
		"kooworker batch wait deletions-2026-11 --timeout 2h && echo all is done",
		"kooworker batch wait deletions-2026-11 --json",
	},
	"batch audit": {
		"kooworker batch audit deletions-2026-11",
		"kooworker batch audit deletions-2026-11 --json | jq .problems",
	},
	"batch receipts": {
		"kooworker batch receipts deletions-2026-11 > proof.jsonl",
		"kooworker batch receipts deletions-2026-11 --follow | jq 'select(.outcome == \"dead\")'",
	},
	"batch cancel": {
		"kooworker batch cancel deletions-2026-11 --reason 'wrong file'",
		"kooworker batch cancel deletions-2026-11 --user-id u-1 --json | jq .in_flight",
	},
	"batch hold": {
		"kooworker batch hold deletions-2026-11 --reason 'legal hold 42'",
		"kooworker batch hold deletions-2026-11 --until 2199-12-01T00:00:00Z",
	},
	"batch release": {"kooworker batch release deletions-2026-11"},
	"batch delete": {
		"kooworker batch delete deletions-2026-11",
		"kooworker batch delete deletions-2026-11 --force  # cancels it first",
	},
	"queue list": {
		"kooworker queue list",
		"kooworker queue list --json | jq 'select(.paused)'",
	},
	"queue pause": {
		"kooworker queue pause unbind --reason 'KooDrive is being upgraded' --for 2h",
		"kooworker queue pause --all --reason 'incident 17'",
	},
	"queue resume": {"kooworker queue resume unbind"},
	"history show": {
		"kooworker history --user-id u-1",
		"kooworker history --user-id u-1 --device-id 1775406005920779393 --json | jq .outcome",
	},
	"history forget": {"kooworker history forget --user-id u-1"},
	"locks track": {
		"kooworker locks track --user-id u-1 --lock-id 78e41c7e-db02-4d55-85b3-8153e4fefd2e@102",
		"kooworker locks track --file locks.csv --expires-in 30m --rejects bad.csv",
	},
	"locks renew": {
		"kooworker locks renew --user-id u-1 --lock-id 78e41c7e-db02-4d55-85b3-8153e4fefd2e@102",
		"kooworker locks renew --file locks.csv --expires-in 30m",
	},
	"locks forget": {
		"kooworker locks forget --user-id u-1 --lock-id 78e41c7e-db02-4d55-85b3-8153e4fefd2e@102",
		"kooworker locks forget --file locks.csv",
	},
	"locks list": {
		"kooworker locks list --stale",
		"kooworker locks list --user-id u-1 --json",
	},
	"locks sweep": {
		"kooworker locks sweep --dry-run",
		"kooworker locks sweep --max 500 --max-share 0.4",
		"kooworker locks sweep --source-file locks.csv",
	},
	"scheduler": {
		"kooworker scheduler --sweep-every 5m",
		"kooworker scheduler --sweep-cron '0 3 * * *' --sweep-zone Europe/Berlin",
	},
	"dead list": {
		"kooworker dead list --reason forbidden --limit 20",
		"kooworker dead list --user-id u-1 --newer-than 7d",
	},
	"dead stats": {
		"kooworker dead stats",
		"kooworker dead stats --batch deletions-2026-11 --json",
	},
	"dead replay": {
		"kooworker dead replay --reason forbidden --dry-run",
		"kooworker dead replay --reason forbidden --canary 50 --min-success 0.9 --rate 100",
	},
	"dead discard": {
		"kooworker dead discard --reason invalid --older-than 30d --dry-run",
		"kooworker dead discard --id device:unbind:u-1:1775406005920779393 --yes",
	},
	"dead export": {"kooworker dead export --batch deletions-2026-11 > dead.jsonl"},
	"doctor": {
		"KOODRIVE_TOKEN_FILE=token kooworker doctor --koodrive-url https://koodrive.example.com",
		"kooworker doctor --fix  # repairs orphans, archived tasks and their like",
		"kooworker doctor --json | jq '.checks[] | select(.status == \"error\")'",
	},
	"dashboard": {
		"kooworker dashboard  # on this machine only: http://127.0.0.1:8090",
		"kooworker dashboard --addr 0.0.0.0 --users-file users --tls-cert tls.crt --tls-key tls.key",
		"kooworker dashboard --addr 0.0.0.0 --trusted-proxy 10.1.2.3 --operator-group sre",
	},
	"hash-password": {
		"kooworker hash-password bob >> users",
		"kooworker hash-password alice --role operator >> users",
	},
	"simulator": {
		"kooworker simulator --users 100",
		"kooworker simulator --users 100 --quota 'bucket:200/s,burst=20' --fault throttled,rate=0.1",
	},
	"healthcheck": {
		"kooworker healthcheck",
		"kooworker healthcheck --url http://127.0.0.1:8080/healthz --timeout 1s",
	},
	"version": {"kooworker version --json"},
	"help": {
		"kooworker help",
		"kooworker help batch show",
	},
	"completion": {
		"source <(kooworker completion bash)  # in ~/.bashrc",
		"kooworker completion zsh > ~/.zfunc/_kooworker",
		"kooworker completion fish > ~/.config/fish/completions/kooworker.fish",
	},
}

// addExamples adds the examples to the help of the commands.
func addExamples(parser *kong.Kong) error {
	for _, command := range parser.Model.Leaves(true) {
		if lines := examples[command.Path()]; len(lines) > 0 {
			command.Detail = "Examples:\n\n  " + strings.Join(lines, "\n  ")
		}
	}
	return nil
}
