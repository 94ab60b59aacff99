# Holdfast. `make help` lists the targets.

SHELL      := bash
.SHELLFLAGS := -eu -o pipefail -c

GO        ?= go
BIN       := $(CURDIR)/bin
LINT_VERSION := v2.15.0
ACTIONLINT_VERSION := v1.7.12
# backends whose conformance can run here: a name and its package
# RabbitMQ has a run of its own (make conformance BACKEND=rabbit) until its rules hold on every busy machine.
BACKEND   ?= memory nats
TIER      ?= fast
SHEET     := $(CURDIR)/out/sheets.txt
export REQUIRE_BROKERS ?=

.PHONY: help check test conformance mutants lint vet unit bench fuzz clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

check: vet ## the quick loop, under two minutes: vet, unit tests, the smoke tier
	HOLDFAST_TIER=smoke $(GO) test -short -parallel 8 ./...

test: vet lint unit conformance mutants ## everything that must pass before a change lands
	@echo
	@echo "Backends (rules by status):"
	@cat $(SHEET)

vet:
	$(GO) vet ./...

# Packages whose tests start brokers: one after the other, with nothing beside them.
BROKERED  := ./internal/brokers ./backends/rabbit

unit: ## unit tests with the race detector
	$(GO) test -race -skip '^TestConformance$$' $$($(GO) list ./... | grep -v -E '/internal/brokers$$|/backends/rabbit$$')
	$(GO) test -race -p 1 -skip '^TestConformance$$' $(BROKERED)
	$(GO) test -count=1 -run '^TestQ01' ./backends/memory -rapid.checks=1000

conformance: ## the conformance suite: BACKEND="memory nats", TIER=smoke|fast|full
	@mkdir -p $(dir $(SHEET)) && rm -f $(SHEET)
	@for b in $(BACKEND); do \
		echo "conformance of $$b, $(TIER) tier"; \
		HOLDFAST_TIER=$(TIER) HOLDFAST_SHEET=$(SHEET) $(GO) test -count=1 -timeout 60m -parallel 10 -run '^TestConformance$$' -v ./backends/$$b \
			| grep -v -E '^(=== |    --- PASS|        --- PASS|--- PASS|PASS$$)'; \
		grep -q "^$$b[- ]" $(SHEET) || { echo "$$b did not run"; exit 1; }; \
		! grep "^$$b[- ]" $(SHEET) | grep -qv 'FAIL 0 ' || exit 1; \
	done

mutants: ## break the code of BACKEND on purpose: every mutant must be caught
	HOLDFAST_MUTANTS="$(BACKEND)" $(GO) test -count=1 -timeout 20m -tags mutants -v -run '^TestMutants$$' ./conformance/mutants | grep -E '^(mutant|ok|FAIL|---|    ---|panic)'

lint: $(BIN)/golangci-lint-$(LINT_VERSION) ## static analysis
	$< run ./...

$(BIN)/golangci-lint-$(LINT_VERSION):
	@mkdir -p $(BIN)
	GOBIN=$(BIN) $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION)
	@mv $(BIN)/golangci-lint $@

actionlint: $(BIN)/actionlint-$(ACTIONLINT_VERSION)
	$< .github/workflows/*.yml

$(BIN)/actionlint-$(ACTIONLINT_VERSION):
	@mkdir -p $(BIN)
	GOBIN=$(BIN) $(GO) install github.com/rhysd/actionlint/cmd/actionlint@$(ACTIONLINT_VERSION)
	@mv $(BIN)/actionlint $@

bench: ## benchmarks in the tree
	$(GO) test -run '^$$' -bench . -benchmem ./queue/... ./backends/... ./conformance/history

FUZZTIME ?= 10s
fuzz: ## each fuzz target for FUZZTIME
	@for p in $$($(GO) list ./...); do \
		for f in $$($(GO) test -list '^Fuzz' $$p | grep '^Fuzz'); do \
			$(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) $$p || exit 1; \
		done; \
	done

clean: ## remove what the targets made
	rm -rf $(BIN) out
