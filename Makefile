# make run   a small SONiC switch on this machine, with portsyncd on it
# make test  every check there is; CI runs the same
# make build the binary for this machine
# make dist  static binaries for every CPU, in dist/; make deb: Debian packages of them
# make release VERSION=v1.4.0  all of that twice from a clean clone and compared, with bills of materials, licences and checksums, in dist/v1.4.0/
# make test-arm  the tests as ARM code, under qemu-user (part of make test)
# make test-vm, make test-vm-arm64  Debian booted in qemu: systemd, other kernels, ARM, a power cut (docs/vm.md); part of no other command
# make soak  an hour of chaos, and another beside an observer (SOAK=10m for less, SEED=n to run one again)
# make bench benchmarks; those of the metrics beside other libraries, and the daemon on a benchmark switch (VS='/usr/bin/portsyncd' beside another)
# make rates  processor time, wake-ups and latency at each rate of changes (VS=… beside another), with docs/rates.svg
# make growth  how it grows to 100,000 ports, with docs/growth.svg
# make profile  CPU and heap profiles of a storm, in profile/
# make fidelity VS=/usr/bin/portsyncd  random histories played to both, ours and the C++ one, and all compared that they make of them (DIFFFLAGS='-histories 100')
# make page  the page at / in a Chromium, with pictures in dist/page/ and docs/page.png; part of no other command
# make troubleshooting  docs/troubleshooting.md, with what the commands print today
# make sim  the simulated switch for SIMTIME, or SEEDS=n runs, or SEED=n alone with its history; SIM=TestSimulationOfInstances has several portsyncd
# make fuzz  each parser of what comes from outside, on inputs made up from what it has seen; FUZZTIME=1h for each
# make mutants  faults put back on purpose, which the simulator has to find; part of no other command

GO      ?= go
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
# No HTTP/2 in the binary: the server never speaks it, and it is 450 KB.
BUILD    = CGO_ENABLED=0 $(GO) build -tags nethttpomithttp2 -trimpath -buildvcs=false -ldflags '-s -w -buildid= -X main.version=$(VERSION)'
FUZZTIME ?= 1000x
TOOLS   := $(CURDIR)/.tools
ON_PATH  = PATH="$(TOOLS)/usr/bin:$$PATH"

.PHONY: build fidelity run test test-building test-computing test-switches test-parser-big-endian need check fuzz test-arm test-as-arm test-as-arm64 test-vm test-vm-arm64 dist deb release bench rates instructions growth profile page troubleshooting soak sim mutants clean
.DEFAULT_GOAL := build

build:
	@command -v $(GO) >/dev/null || { echo 'Go 1.26 or later is missing: https://go.dev/doc/install' >&2; exit 1; }
	$(BUILD) -o portsyncd .

run: build
	$(GO) run ./demo $(if $(ASICS),-asics $(ASICS))

# Two halves, each of two that go on beside each other. The end of the output is that of the tests proper: they take longer than what computes beside them.
test: need
	@$(MAKE) -j2 --output-sync --no-print-directory test-as-arm test-building
	@$(MAKE) -j2 --output-sync --no-print-directory test-computing test-switches

test-building: test-parser-big-endian test-as-arm64
	@$(MAKE) --no-print-directory check dist

# What only computes goes on while the tests proper, beside it, mostly wait. The simulation plays the same seeds each time: what a new seed finds is for make sim.
test-computing: fuzz
	cd bench && $(GO) test -count=1 ./...
	nice $(GO) test -count=1 -run 'TestSimulation$$' . -sim.seeds 15000
	nice $(GO) test -count=1 -run 'TestSimulationOfInstances$$' . -sim.seeds 1000
	$(ON_PATH) nice $(GO) test -count=1 -run $(ONE_THREAD) -skip 'TestSimulation$$|TestSimulationOfInstances$$' .

# What has no daemon, nothing to wait for and one thread, the race detector would only make slower.
ONE_THREAD = 'TestImagePatch|TestOnlyARooms|TestNoTwoFiles|TestFilesFunctions|TestRulesAre|TestMutants|TestReproducible|TestPackage|TestAlertRules|TestRecordingRules|TestDocumentedWarm|TestQuotedLog|TestManPage|TestUnitLeaves|TestRemovalEnds|TestReleaseRefuses|TestLicences|TestSimulation|TestKilledWritersCommands|TestKeptScenarios'

# One package at a time: there is one kernel, and a storm of one package delays the carriers of another. Tests that mostly wait, for certificates, pauses and programs
# beside the daemon, run together at a package's end.
test-switches:
	$(ON_PATH) $(GO) test -race -count=1 -p 1 -parallel 10 -timeout 15m -skip $(ONE_THREAD) ./...

# What the tests need: installed if we may, else named. Tests that cannot run say why, and in CI they fail.
need:
	@GO=$(GO) sh .ci/need $(TOOLS)

check:
	@unformatted=$$(gofmt -l .); [ -z "$$unformatted" ] || { echo "gofmt -w is owed to: $$unformatted" >&2; exit 1; }
	$(GO) vet -tags vm,browser ./... && cd bench && $(GO) vet ./...
	$(GO) tool -modfile=tools/go.mod staticcheck -tags vm,browser ./...
	$(GO) mod verify

# In make test a count of inputs for each target; for a person, make fuzz FUZZTIME=1h, and FUZZ=Recorder for some of them.
fuzz:
	@GO=$(GO) sh .ci/fuzz $(FUZZTIME) '$(FUZZ)'

# What is shipped for ARM has run its tests as ARM code: all of them but the long ones, which chaos and load would make longer still under an emulator. As 64-bit code
# these are the ones of what asks the kernel: all else is the same as on amd64. The parser's also run on a big-endian machine: netlink is in native byte order. What
# the tests of ABOUT_TEXT read is the source, which is the same on each.
ABOUT_TEXT = 'TestImagePatch|TestRelease|TestDocumentedNames|TestOnlyARooms|TestNoTwoFiles|TestFilesFunctions|TestRulesAre|TestMutants|TestReproducible|TestPackage|TestDashboard|TestAlertRules|TestRecordingRules|TestDocumentedWarm|TestQuotedLog|TestManPage|TestUnitLeaves|TestRemovalEnds|TestScrapeConfig'
ARM_E2E = 'TestColdStart|TestSigterm|TestOldInterfaces|TestPortEnters|TestWarmRestart|TestStoppedDaemon|TestKilled|TestRedisReturns|TestTLSDocument'
OF_PARSER = 'Recorded|Parsing|BrokenMessages|Errno|OverrunMessage|FuzzDatagram'
UNITS_arm   = .
UNITS_arm64 = 'Recorded|Parsing|BrokenMessages|Errno|Overrun|Fuzz|Lock|Prompt|Raw|Stamp|Recorder|Ring|Listing|Answer|Namespace|Process|Certificate|Socket'
test-arm: test-parser-big-endian test-as-arm test-as-arm64

test-parser-big-endian: need
	CGO_ENABLED=0 GOARCH=s390x $(GO) test -count=1 -short -exec "$(call qemu,s390x)" -run $(OF_PARSER) .

test-as-arm:   emulated = arm
test-as-arm64: emulated = aarch64
test-as-arm test-as-arm64: test-as-%: need
	@export CGO_ENABLED=0 GOARM=7; qemu="$(call qemu,$(emulated))"; daemon=$(CURDIR)/dist/test/portsyncd-$*; \
	GOARCH=$* $(GO) build -tags nethttpomithttp2 -trimpath -buildvcs=false -o $$daemon . || exit 1; \
	export PORTSYNCD="$$qemu $$daemon"; \
	echo "unit tests as $* code"; \
	$(ON_PATH) GOARCH=$* $(GO) test -count=1 -short -timeout 8m -run $(UNITS_$*) -skip $(ABOUT_TEXT) -exec "$$qemu" . || exit 1; \
	echo "end-to-end tests of the daemon as $* code"; \
	$(ON_PATH) $(GO) test -count=1 -timeout 10m -run $(ARM_E2E) .
qemu = $$(PATH="$(TOOLS)/usr/bin:$$PATH" command -v qemu-$(1)-static)

# RUN='TestKernel' for some of the guest's tests, SUITE=trixie for another Debian, RECORD=yes to keep what its kernel sent in testdata/.
SUITE ?= bookworm
test-vm:       machine = amd64
test-vm-arm64: machine = arm64
test-vm test-vm-arm64:
	@sh .ci/need-vm
	$(GO) test -tags vm -count=1 -v -timeout 120m ./vm -vm.arch $(machine) -vm.suite $(SUITE) -vm.e2e $(ARM_E2E) \
		$(if $(RUN),-vm.run '$(RUN)') $(if $(RECORD),-vm.record)

# name:GOARCH:variable for the CPU's version. 9 MiB is what an image builder grants; MIPS code is larger, and no SONiC image has it yet.
TARGETS = amd64:amd64:GOAMD64=v1 arm64:arm64:GOARM64=v8.0 arm7:arm:GOARM=7 arm5:arm:GOARM=5 mipsle:mipsle:GOMIPS=softfloat riscv64:riscv64:GORISCV64=rva20u64
LIMIT   = 9437184
dist:
	@mkdir -p dist && rm -f dist/portsyncd-* dist/SHA256SUMS
	@for target in $(TARGETS); do \
		set -- $$(echo $$target | tr : ' '); file=dist/portsyncd-linux-$$1; \
		GOOS=linux GOARCH=$$2 $(subst CGO_ENABLED=0,env CGO_ENABLED=0 $$3,$(BUILD)) -o $$file . || exit 1; \
		size=$$(stat -c %s $$file); \
		limit=$(LIMIT); [ $$1 != mipsle ] || limit=10485760; \
		printf '%-32s %9d bytes, %3d %% of %d MiB\n' $$file $$size $$((size * 100 / limit)) $$((limit / 1048576)); \
		[ $$size -le $$limit ] || { echo "$$file is larger than $$((limit / 1048576)) MiB" >&2; exit 1; }; \
	done
	@cd dist && sha256sum portsyncd-linux-* >SHA256SUMS && echo dist/SHA256SUMS

# Debian's names of the CPUs. The man page's list of flags is that of a binary that runs here.
deb: dist build
	@for pair in amd64:amd64 arm64:arm64 arm7:armhf; do \
		sh deploy/debian/build.sh dist/portsyncd-linux-$${pair%:*} $${pair#*:} '$(VERSION)' dist ./portsyncd || exit 1; \
	done

release:
	@GO=$(GO) sh .ci/release '$(VERSION)'

bench: build
	$(GO) test -run '^$$' -bench 'ParseLink|Step|Scrape' .
	cd bench && $(GO) test -run '^$$' -bench . .
	$(GO) run ./switchbench $(if $(VS),-vs '$(VS)') $(BENCHFLAGS)

RATES ?= 30,100,300,1000,2500,max
rates: build
	$(GO) run ./switchbench -ports 128 -runs 5 -rates $(RATES) -svg docs/rates.svg $(if $(VS),-vs '$(VS)') $(BENCHFLAGS)

# What no noise of the machine changes: instructions of a link message (parsed; and taken in, with its share of a turn) and of a flush of 1, 8 and 64 ports.
instructions:
	@GO=$(GO) sh .ci/instructions '^BenchmarkParseLink$$:20000 ^BenchmarkStep$$:20000 ^BenchmarkFlush$$/^1$$:10000 ^BenchmarkFlush$$/^8$$:4000 ^BenchmarkFlush$$/^64$$:1000'

fidelity: build
	$(GO) run ./switchdiff $(if $(VS),-vs '$(VS)') $(DIFFFLAGS)

growth:
	$(GO) test -run '^$$' -bench Growth -benchtime 1x -timeout 20m -growth.svg docs/growth.svg .

profile:
	mkdir -p profile
	$(GO) test -run '^$$' -bench Storm -benchtime 200x -cpuprofile profile/cpu.out -memprofile profile/heap.out -memprofilerate 1024 -o profile/portsyncd.test .
	@echo 'go tool pprof -top profile/portsyncd.test profile/cpu.out    # or -http=localhost:8080'

BROWSER ?= chromium
page: need
	@command -v $(BROWSER) >/dev/null || { echo 'a Chromium is missing: apt-get install chromium, or BROWSER=…' >&2; exit 1; }
	@command -v certutil >/dev/null || { echo 'certutil is missing: apt-get install libnss3-tools' >&2; exit 1; }
	@mkdir -p dist/page
	$(GO) test -tags browser -count=1 -v -run 'TestPageInABrowser' . -page.browser $(BROWSER) -page.shots $(CURDIR)/dist/page
	cp dist/page/page-64-wide.png docs/page.png

troubleshooting: need
	$(GO) test -count=1 -run 'TestTroubleshooting$$' . -troubleshooting.write

SOAK ?= 1h
SEED ?= 0
soak: need
	$(GO) test -count=1 -timeout 0 -v -run 'TestChaos$$' . -chaos.time $(SOAK) -chaos.seed $(SEED)
	$(GO) test -count=1 -timeout 0 -v -run 'TestObserverWritesNothing' . -observe.time $(SOAK)

SIMTIME ?= 10m
SIM     ?= TestSimulation
SEEDS   ?= 0
sim:
	$(GO) test -count=1 -timeout 0 -v -run '$(SIM)$$|TestKeptScenarios' . -sim.time $(SIMTIME) -sim.seeds $(SEEDS) -sim.seed $(SEED)

mutants:
	@GO=$(GO) sh .ci/mutants $(MUTANTS)

clean:
	rm -rf portsyncd dist profile .cache $(TOOLS)
