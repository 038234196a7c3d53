# `make` lists the targets. `make check` runs the checks that CI runs.

GOLANGCI_LINT_VERSION := v2.15.0
ACTIONLINT_VERSION    := v1.7.12
AXE_CORE_VERSION      := 4.14.1
AXE_CORE_SHA256       := e6b0ce02b84d892e2e33e403485e7f3d6c29e2be6df65daf44d89ba564139745
GORELEASER_VERSION    := v2.15.1

# The version that the binary prints: the output of `git describe`.
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)

# How long each fuzz target runs.
FUZZTIME ?= 20s

# More flags for `go test`: make test TESTFLAGS='-run TestReplay -v'
TESTFLAGS ?=

# Flags for what a target runs: make demo ARGS='--tasks 5000', make bench ARGS=-quick
ARGS ?=

GOLANGCI_LINT := bin/tools/golangci-lint-$(GOLANGCI_LINT_VERSION)
GORELEASER    := bin/tools/goreleaser-$(GORELEASER_VERSION)
AXE_CORE      := bin/tools/axe-core-$(AXE_CORE_VERSION).min.js

# The targets of `make check`, in their order. Those that fail fast come first.
CHECKS := fmt-check tidy-check vet build test test-browser lint scripts-check deploy-check release-check fuzz-smoke

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

##

.PHONY: demo
demo: ## See it work: no Redis, no account, nothing to set up
	go run ./cmd/kooworker demo $(ARGS)

.PHONY: build
build: ## Build bin/kooworker
	CGO_ENABLED=0 go build -trimpath -ldflags '-X main.version=$(VERSION)' -o bin/kooworker ./cmd/kooworker

# What takes longest comes first. The simulations of worker/gate come last: they keep all cores
# busy, and tests of other packages watch real processes, which need their share.
.PHONY: test
test: ## Run the tests, against real servers, with the race detector
	@.ci/need redis-server postgres mariadbd mariadb-install-db gcc bash zsh fish mandoc python3 prometheus
	CGO_ENABLED=1 go test -race -timeout 40m $(TESTFLAGS) ./cmd/kooworker $$(go list ./... | grep -v /worker/gate) ./worker/gate/...

.PHONY: test-browser
test-browser: $(AXE_CORE) ## Use the dashboard in a headless Chromium; writes bin/screenshots/
	@.ci/need redis-server chromium
	AXE_CORE='$(CURDIR)/$(AXE_CORE)' SCREENSHOTS='$(CURDIR)/bin/screenshots' \
	  go test -tags browser -count=1 -timeout 10m -parallel 4 $(TESTFLAGS) ./worker/dashboard/browsertest

.PHONY: chaos
chaos: ## Kill, freeze and starve what the worker depends on; takes half an hour
	@.ci/need redis-server postgres mariadbd mariadb-install-db
	go test -tags chaos -run '^TestChaos' -count=1 -timeout 60m -v ./cmd/kooworker

.PHONY: check
check: $(CHECKS) ## Run the checks that CI runs

.PHONY: lint
lint: $(GOLANGCI_LINT) ## Run the pinned version of golangci-lint
	$(GOLANGCI_LINT) config verify
	$(GOLANGCI_LINT) run ./...
	cd deploy/check && ../../$(GOLANGCI_LINT) run ./...

.PHONY: fmt
fmt: $(GOLANGCI_LINT) ## Format the code
	$(GOLANGCI_LINT) fmt ./...

# go test calls it a failure if the time is over while an input runs slowly. So a target that
# fails is run once more: an input that was found is kept, and fails again.
.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZTIME (20s)
	@find . -name '*_test.go' -not -path './deploy/*' -exec grep -l '^func Fuzz' {} + | while read -r file; do \
	  for target in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$$file"); do \
	    echo "$$target in $$(dirname "$$file"), $(FUZZTIME)"; \
	    run() { go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "$$(dirname "$$file")" </dev/null; }; \
	    run || { echo "$$target failed: once more"; run; } || exit 1; \
	  done || exit 1; \
	done

.PHONY: bench
bench: build ## Measure kooworker beside plain asynq for some minutes; writes bin/bench.json
	@.ci/need redis-server
	go build -o bin/bench ./internal/bench
	bin/bench -json bin/bench.json $(ARGS)

.PHONY: bench-hot
bench-hot: ## Measure the hot functions by themselves
	go test -run '^$$' -bench . ./tasks ./worker/gate ./worker/koodrive

# What makes up the time of a worker. A sample counts for the innermost of these.
STAGES := Fetcher\)\.(Run|take)$$|coalescer\.roundTrip$$|RDB\)\.Done$$|^runtime\.(mcall|gcBgMarkWorker)$$|processor\)\.exec|heartbeater|tasks\.Decode$$
STAGES := $(STAGES)|Gate\)\.Acquire$$|Permit\)\.Report$$|Client\)\.(exchange|interpret)$$|persistConn\)\.(read|write)Loop$$
STAGES := $(STAGES)|Pipeline\)\.(Process|writeReceipt)$$|Store\)\.RecordOutcomes$$|attemptLog\)\.write$$

# A test binary runs as the worker, because kooworker itself offers no profile.
.PHONY: bench-profile
bench-profile: ## Profile a worker that drains a batch, and show the stages; writes bin/profile/
	@.ci/need redis-server
	go build -o bin/bench ./internal/bench
	go test -c -o bin/kooworker.test ./cmd/kooworker
	rm -rf bin/profile && mkdir -p bin/profile
	KOOWORKER_TEST_AS_MAIN=1 KOOWORKER_TEST_PROFILES=bin/profile bin/bench -kooworker bin/kooworker.test -sections memory -memory-tasks 100000 $(ARGS)
	go tool pprof -top -show='$(STAGES)' bin/profile/*.pprof

.PHONY: cover
cover: ## Measure the tests' coverage; writes coverage.out
	@.ci/need redis-server postgres mariadbd mariadb-install-db bash zsh fish mandoc python3 prometheus
	go test -coverpkg=./... -coverprofile=coverage.out $(TESTFLAGS) ./...
	@go tool cover -func=coverage.out | tail -n 1

.PHONY: release
release: $(GORELEASER) ## Build, sign and publish the release of the tag that is checked out; for CI
	$(GORELEASER) release --clean

.PHONY: release-snapshot
release-snapshot: $(GORELEASER) ## Build the archives of a release into dist/, without signatures and image
	$(GORELEASER) release --clean --snapshot --skip=sign,sbom,docker

.PHONY: clean
clean: ## Remove the files that make has built
	rm -rf bin dist dist-docs coverage.out

## The other targets of `make check`.

.PHONY: fmt-check
fmt-check: ## Fail if gofmt would change a file
	@unformatted=$$(gofmt -l .); \
	if [ -n "$$unformatted" ]; then echo "not formatted, run make fmt:"; echo "$$unformatted"; exit 1; fi

.PHONY: tidy-check
tidy-check: ## Fail if go.mod or go.sum is not what the code needs
	go mod tidy -diff
	go mod verify
	cd deploy/check && go mod tidy -diff && go mod verify

.PHONY: vet
vet: ## Run go vet
	go vet -tags chaos,browser ./...
	cd deploy/check && go vet ./...

.PHONY: scripts-check
scripts-check: ## Check the workflows, and the scripts if shellcheck is installed
	go run github.com/rhysd/actionlint/cmd/actionlint@$(ACTIONLINT_VERSION)
	@if command -v shellcheck >/dev/null 2>&1; then \
	  shellcheck .ci/need .ci/release-docs .ci/run deploy/check/run; \
	else \
	  echo "not checked: the scripts, because shellcheck is not installed"; \
	fi

.PHONY: deploy-check
deploy-check: ## Check deploy/: compose, Dockerfile, Kubernetes, systemd unit, Redis settings, alerts
	@deploy/check/run

# The first time it builds GoReleaser, which takes some minutes.
.PHONY: release-check
release-check: $(GORELEASER) ## Check the configuration of releases
	$(GORELEASER) check

.PHONY: fuzz-smoke
fuzz-smoke:
	@$(MAKE) --no-print-directory fuzz FUZZTIME=5s

# .ci/run makes the targets one by one.
.PHONY: checks
checks:
	@echo $(CHECKS)

$(GOLANGCI_LINT):
	GOBIN='$(CURDIR)/bin/tools' go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION)
	mv bin/tools/golangci-lint $@

# What checks the pages' accessibility.
$(AXE_CORE):
	@.ci/need npm
	mkdir -p bin/tools
	cd bin/tools && npm pack --silent axe-core@$(AXE_CORE_VERSION)
	cd bin/tools && echo '$(AXE_CORE_SHA256)  axe-core-$(AXE_CORE_VERSION).tgz' | sha256sum -c -
	tar -xzOf bin/tools/axe-core-$(AXE_CORE_VERSION).tgz package/axe.min.js >$@
	rm bin/tools/axe-core-$(AXE_CORE_VERSION).tgz

$(GORELEASER):
	GOBIN='$(CURDIR)/bin/tools' go install github.com/goreleaser/goreleaser/v2@$(GORELEASER_VERSION)
	mv bin/tools/goreleaser $@
