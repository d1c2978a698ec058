# Otter: build/otter, and the tests. `make help` lists the targets.
#
# Each room is a static library of all its .c files. Kernel sources under engine/cpu/ named *-avx2.c, *-avx512.c and
# *-vnni.c are compiled with the flags of their instruction set and nothing else is: the choice is made at run time.

BUILD ?= build
ifeq ($(origin CC),default)
CC := gcc
endif
PKGS := libmicrohttpd libuv jansson yaml-0.1 zlib nettle
CPPFLAGS += -I. -D_GNU_SOURCE
WARN := -Wall -Wextra -Wshadow -Wpointer-arith -Wstrict-prototypes -Wmissing-prototypes -Wvla
CFLAGS ?= -O2 -g
# Invariants have tripwires (base/asserts.h), which a release goes without.
ifeq ($(RELEASE),1)
CPPFLAGS += -DOT_NO_ASSERTS
endif
CFLAGS_ALL = -std=c11 $(WARN) -ffp-contract=off -fno-math-errno -pthread $(CFLAGS)
LDLIBS_ALL = $(shell pkg-config --libs $(PKGS)) -lm -pthread
VERSION := $(shell cat VERSION 2>/dev/null || echo 0.1.0)

ROOMS := base gguf text grammar engine kv-cache scheduler server config train
# All .c files of a room, two levels deep.
room_sources = $(wildcard $(1)/*.c $(1)/*/*.c)
SRC_cli := $(call room_sources,cli)

obj = $(patsubst %.c,$(BUILD)/obj/%.o,$(1))
LIBS := $(foreach r,$(ROOMS),$(BUILD)/lib/$(r).a)
# Users first, so that one pass of the linker resolves all.
LIBS_ORDERED := $(foreach r,config server train scheduler kv-cache engine grammar text gguf base,$(BUILD)/lib/$(r).a)

all: $(BUILD)/otter

$(BUILD)/otter: $(call obj,$(SRC_cli)) $(BUILD)/obj/gen/commit.o $(LIBS)
	$(CC) $(CFLAGS_ALL) $(LDFLAGS) -o $@ $(call obj,$(SRC_cli)) $(BUILD)/obj/gen/commit.o $(LIBS_ORDERED) $(LDLIBS_ALL)

# The commit that `otter --version` names; written anew only when it is another one.
COMMIT := $(shell git describe --always --dirty --abbrev=12 2>/dev/null || echo a release)
$(BUILD)/gen/commit.c: $(if $(filter-out $(COMMIT),$(shell cat $(BUILD)/gen/commit 2>/dev/null)),always)
	@mkdir -p $(@D)
	@echo '$(COMMIT)' >$(BUILD)/gen/commit
	@printf 'extern const char ot_build_commit[];\nconst char ot_build_commit[] = "%s";\n' '$(COMMIT)' >$@

define room_rule
$(BUILD)/lib/$(1).a: $(call obj,$(call room_sources,$(1)))
	@mkdir -p $$(@D)
	@rm -f $$@
	$$(AR) rcs $$@ $$^
endef
$(foreach r,$(ROOMS),$(eval $(call room_rule,$(r))))

# No sanitizers on them: they take minutes on unrolled kernels, and tests/kernels has guard pages for what they would find.
ISA_ALL := -mavx2 -mfma -mf16c -O3 -fno-sanitize=all
ISA_512 := -mavx512f -mavx512bw -mavx512dq -mavx512vl
$(BUILD)/obj/%-avx2.o: ISA := $(ISA_ALL)
$(BUILD)/obj/%-avx512.o: ISA := $(ISA_ALL) $(ISA_512)
$(BUILD)/obj/%-vnni.o: ISA := $(ISA_ALL) $(ISA_512) -mavx512vnni
$(BUILD)/obj/%.o: %.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) -DOTTER_VERSION='"$(VERSION)"' $(CFLAGS_ALL) $(ISA) -MMD -MP -c -o $@ $<

# Files that the program carries as bytes (server/embedded.h), made into C so that any compiler and object format will do.
PLAYGROUND := $(addprefix server/playground/,wire.js controls.js tokens.js status.js main.js)
$(BUILD)/gen/playground.html: server/playground/page.html server/playground/page.css $(PLAYGROUND)
	@mkdir -p $(@D)
	sed -e '/^\/\* page.css \*\/$$/{r server/playground/page.css' -e 'd}' \
	    -e '/^\/\* page.js \*\/$$/{$(foreach f,$(PLAYGROUND),r $(f)' -e ')d}' $< >$@
$(BUILD)/gen/playground.c: $(BUILD)/gen/playground.html scripts/embed
	scripts/embed ot_playground_html $< >$@
$(BUILD)/gen/openapi.c: api-spec/openapi.yaml scripts/embed
	@mkdir -p $(@D)
	scripts/embed ot_openapi_yaml $< >$@
$(BUILD)/obj/gen/%.o: $(BUILD)/gen/%.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) -c -o $@ $<
$(BUILD)/lib/server.a: $(BUILD)/obj/gen/openapi.o $(BUILD)/obj/gen/playground.o

# What objects are compiled with: its time is that of the last change, after which they are made again.
FLAGS := $(CC) $(CPPFLAGS) $(CFLAGS) $(VERSION)
$(BUILD)/flags: always
	@mkdir -p $(@D)
	@echo '$(FLAGS)' | cmp -s - $@ || echo '$(FLAGS)' > $@

-include $(shell find $(BUILD)/obj -name '*.d' 2>/dev/null)

# A test is one .c file with a main; it links the rooms. Exit 0: passed, 77: skipped.
# Each prints its cases as it goes; `./test unit/ kernels/` builds and runs those two folders.
TESTS := $(patsubst %.c,$(BUILD)/%,$(wildcard tests/unit/test-*.c tests/kernels/test-*.c tests/fuzz/test-*.c \
                                      tests/golden/test-*.c))
TEST_HELPERS := $(call obj,$(wildcard tests/support/*.c))
# Tests of a lower room need only that room: link what exists.
$(BUILD)/tests/%: $(BUILD)/obj/tests/%.o $(TEST_HELPERS) $(LIBS)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) $(LDFLAGS) -o $@ $< $(TEST_HELPERS) $(LIBS_ORDERED) $(LDLIBS_ALL)

# The test that makes each allocation fail in turn stands before the C library's functions.
$(BUILD)/tests/unit/test-allocation-failure: \
    private LDFLAGS += $(foreach f,malloc calloc realloc aligned_alloc strdup free mmap,-Wl,--wrap=$(f))

# What loads a server needs no room of it.
$(BUILD)/tests/bench/load-client: tests/bench/load-client.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS_ALL) $(LDFLAGS) -o $@ $<

tests: $(TESTS) $(BUILD)/tests/bench/load-client

# The peer is built below $(BUILD) once; PEER_FLAGS are those of tests/bench/peer.py, such as "--rounds 2 --load 16".
bench-peer: $(BUILD)/otter $(BUILD)/tests/bench/load-client
	scripts/get-model
	tests/bench/peer-install --dir $(BUILD)/peer
	python3 tests/bench/peer.py --build $(BUILD) --peer-dir $(BUILD)/peer/bin --out $(BUILD)/peer/report $(PEER_FLAGS)

# ---- Installing (packaging/README.md) ----
PREFIX ?= /usr/local
BINDIR ?= $(PREFIX)/bin
DATADIR ?= $(PREFIX)/share
SYSCONFDIR ?= $(if $(filter /usr,$(PREFIX)),/etc,$(PREFIX)/etc)
UNITDIR ?= $(PREFIX)/lib/systemd/system
SYSUSERSDIR ?= $(PREFIX)/lib/sysusers.d
TMPFILESDIR ?= $(PREFIX)/lib/tmpfiles.d
INSTALL ?= install
MODEL := models/smollm2-135m-instruct-q4_1.gguf
# What installed files say of where they lie.
with_folders = sed -e 's|@BINDIR@|$(BINDIR)|g' -e 's|@DATADIR@|$(DATADIR)|g' -e 's|@SYSCONFDIR@|$(SYSCONFDIR)|g'

install: $(BUILD)/otter
	$(INSTALL) -d $(addprefix $(DESTDIR),$(BINDIR) $(DATADIR)/otter/heads $(DATADIR)/otter/models $(DATADIR)/man/man1 $(DATADIR)/bash-completion/completions \
	    $(DATADIR)/zsh/vendor-completions $(SYSCONFDIR)/otter $(UNITDIR) $(SYSUSERSDIR) $(TMPFILESDIR))
	$(INSTALL) -m 755 $(BUILD)/otter $(DESTDIR)$(BINDIR)/otter
	$(INSTALL) -m 644 $(addprefix heads/,$(addsuffix .gguf,$(shell grep -v "^\#" heads/shipped))) $(DESTDIR)$(DATADIR)/otter/heads
	[ ! -e $(MODEL) ] || $(INSTALL) -m 644 $(MODEL) $(DESTDIR)$(DATADIR)/otter/models
	$(with_folders) packaging/otter.service.in >$(DESTDIR)$(UNITDIR)/otter.service
	$(INSTALL) -m 644 packaging/otter.sysusers $(DESTDIR)$(SYSUSERSDIR)/otter.conf
	$(INSTALL) -m 644 packaging/otter.tmpfiles $(DESTDIR)$(TMPFILESDIR)/otter.conf
	[ -e $(DESTDIR)$(SYSCONFDIR)/otter/otter.yaml ] || $(with_folders) packaging/otter.yaml.in >$(DESTDIR)$(SYSCONFDIR)/otter/otter.yaml
	scripts/make-manuals $(BUILD)/otter $(DESTDIR)$(DATADIR)

uninstall:
	rm -rf $(DESTDIR)$(BINDIR)/otter $(DESTDIR)$(DATADIR)/otter $(DESTDIR)$(UNITDIR)/otter.service $(DESTDIR)$(SYSUSERSDIR)/otter.conf \
	    $(DESTDIR)$(TMPFILESDIR)/otter.conf $(DESTDIR)$(DATADIR)/man/man1/otter*.1 $(DESTDIR)$(DATADIR)/bash-completion/completions/otter \
	    $(DESTDIR)$(DATADIR)/zsh/vendor-completions/_otter

deb:
	packaging/build-deb $(BUILD)/deb

.PHONY: asan ubsan sanitize tsan run-checks werror
# ---- Other eyes: a build folder of its own for each, within $(BUILD). OT_ASSERT is on in all of them, as it is by default. ----

comma := ,
# What the sanitizers look at unless CHECKS says so: every module and parser, and a server under odd clients.
CHECKS := unit/ fuzz/
SANITIZED = $(MAKE) --no-print-directory run-checks BUILD=$(BUILD)/$@ CFLAGS="-O1 -g -fno-omit-frame-pointer $(1)" LDFLAGS="$(1)"

asan:
	ASAN_OPTIONS=detect_stack_use_after_return=1 $(call SANITIZED,-fsanitize=address)
ubsan:
	UBSAN_OPTIONS=print_stacktrace=1 $(call SANITIZED,-fsanitize=undefined -fno-sanitize-recover=undefined)
sanitize: # both of these in one build, as CI has it
	$(call SANITIZED,-fsanitize=address$(comma)undefined -fno-sanitize-recover=undefined)
tsan:
	TSAN_OPTIONS=halt_on_error=1 $(call SANITIZED,-fsanitize=thread)

run-checks:
	BUILD=$(BUILD) OTTER_BIN=$(BUILD)/otter MAKEFLAGS= CFLAGS="$(CFLAGS)" LDFLAGS="$(LDFLAGS)" CC="$(CC)" python3 tests/runner.py $(CHECKS)

# Every source and test without a warning, by gcc and by clang where there is one.
werror:
	$(MAKE) BUILD=$(BUILD)/gcc CC=gcc CFLAGS="-O1 -Werror" all tests
	command -v clang >/dev/null || exit 0; $(MAKE) BUILD=$(BUILD)/clang CC=clang CFLAGS="-O1 -Werror" all tests

# `make fuzz-yaml FUZZ_SECONDS=600`: tests/fuzz/test-fuzz-yaml.c as a libFuzzer target (clang), from the kept inputs on. What it finds is kept
# in $(BUILD)/fuzz/corpus/yaml; an input worth keeping is copied into tests/fuzz/corpus/yaml.
FUZZ_SECONDS := 60
FUZZ_FLAGS := -fsanitize=fuzzer-no-link,address,undefined -DOTTER_LIBFUZZER
fuzz-%:
	$(MAKE) BUILD=$(BUILD)/fuzz CC=clang CFLAGS="-O1 -g $(FUZZ_FLAGS)" LDFLAGS="-fsanitize=fuzzer,address,undefined" \
	    $(BUILD)/fuzz/tests/fuzz/test-fuzz-$*
	mkdir -p $(BUILD)/fuzz/corpus/$* tests/fuzz/corpus/$*
	$(BUILD)/fuzz/tests/fuzz/test-fuzz-$* -max_total_time=$(FUZZ_SECONDS) -rss_limit_mb=4096 $(BUILD)/fuzz/corpus/$* tests/fuzz/corpus/$*

clean:
	rm -rf $(BUILD)

help:
	@echo "make            build $(BUILD)/otter; RELEASE=1 leaves the checks of invariants out"
	@echo "make tests      build the C tests under $(BUILD)/tests"
	@echo "make bench-peer build llama.cpp beside $(BUILD)/otter and run both, in turn, on the default model"
	@echo "make install    put it under PREFIX (/usr/local); make uninstall takes it away"
	@echo "make deb        a Debian package in $(BUILD)/deb"
	@echo "make clean      remove $(BUILD)"
	@echo "Everything at once, with packages: ./test"
	@echo "make asan       tests with the address sanitizer; also ubsan, tsan (CHECKS=\"unit/ http/test_api_chat\" says which)"
	@echo "make werror     a build without warnings, by gcc and clang"
	@echo "make fuzz-NAME  look for inputs that break tests/fuzz/test-fuzz-NAME.c (clang; FUZZ_SECONDS=60)"

.PHONY: all always tests bench-peer install uninstall deb clean help
# Objects of tests are kept. Never `.SECONDARY:` for all: make would then not compile a source whose object is missing but whose archive
# is newer, such as a file that appeared while the archive was being made.
.SECONDARY: $(call obj,$(filter-out tests/support/%,$(wildcard tests/*/*.c)))
