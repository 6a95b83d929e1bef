# make run   a small SONiC switch on this machine, with portsyncd on it
# make test  every check there is; CI runs the same
# make build the binary for this machine
# make soak  an hour of chaos (SOAK=10m for less, SEED=n to run one again)
# make bench benchmarks; those of the metrics beside other libraries

GO      ?= go
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
BUILD    = CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)'
FUZZTIME ?= 10s
TOOLS   := $(CURDIR)/.tools

.PHONY: build run test need check fuzz bench soak clean
.DEFAULT_GOAL := build

build:
	@command -v $(GO) >/dev/null || { echo 'Go 1.26 or later is missing: https://go.dev/doc/install' >&2; exit 1; }
	$(BUILD) -o portsyncd .

run: build
	$(GO) run ./demo

# The end of the output is that of the tests proper.
test: need check fuzz
	cd bench && $(GO) test -count=1 ./...
	PATH="$(TOOLS)/usr/bin:$$PATH" $(GO) test -race -count=1 -timeout 15m ./...

# What the tests need: installed if we may, else named. Tests that cannot run say why, and in CI they fail.
need:
	@GO=$(GO) sh .ci/need $(TOOLS)

check:
	@unformatted=$$(gofmt -l .); [ -z "$$unformatted" ] || { echo "gofmt -w is owed to: $$unformatted" >&2; exit 1; }
	$(GO) vet ./... && cd bench && $(GO) vet ./...
	$(GO) tool -modfile=tools/go.mod staticcheck ./...
	$(GO) mod verify

# Finding a small input that is as interesting as a large one is left to a person: it would take all of the time.
fuzz:
	@for dir in . bench; do for target in $$(cd $$dir && $(GO) test -list '^Fuzz' . | grep ^Fuzz); do \
		(cd $$dir && $(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x .) || exit 1; \
	done; done

bench:
	$(GO) test -run '^$$' -bench . .
	cd bench && $(GO) test -run '^$$' -bench . .

SOAK ?= 1h
SEED ?= 0
soak: need
	$(GO) test -count=1 -timeout 0 -v -run 'TestChaos$$' . -chaos.time $(SOAK) -chaos.seed $(SEED)

clean:
	rm -rf portsyncd dist $(TOOLS)
