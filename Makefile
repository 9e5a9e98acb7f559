.DEFAULT_GOAL := help
.PHONY: help check test test-slow test-system test-browser bench install

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

check: ## lint, types and the tests that need no root: seconds
	./run-tests.sh check

test: ## lint, types and all tests but the slow ones; as root, about ten minutes
	./run-tests.sh

test-slow: ## machines that boot, an emulated kernel, whatever takes minutes; as root
	./run-tests.sh slow

test-system: ## real accounts and servers; as root
	./run-tests.sh system

test-browser: ## Chromium; as root
	./run-tests.sh browser

bench: install ## the tables of benchmarks/; as root
	set -e; for script in benchmarks/[a-z]*.py; do echo "== $$script"; /opt/nblauncher/current/bin/python "$$script"; done

install: ## install or upgrade nblauncher on this machine; as root
	./install.sh
