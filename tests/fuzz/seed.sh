#!/bin/sh
# Fills corpus/ with small real inputs, so that a run starts behind the magic numbers.
set -eu
cd "$(dirname "$0")"
mkdir -p corpus/elf corpus/perf_map corpus/kallsyms corpus/demangle corpus/unwind_info
cp ../fixtures/symbols/*.so ../fixtures/symbols/*.debug corpus/elf/
cp ../fixtures/symbols/*.so corpus/unwind_info/
# Small programs of this host, with all kinds of rows.
find /usr/bin -type f -size -32k -exec grep -lq '^.ELF' {} \; -print | head -n 50 | xargs -I{} cp {} corpus/unwind_info/
printf '7f001000 40 LazyCompile:~main app.js:1:1\n0x7f001020 10 later wins\ngarbage\n' > corpus/perf_map/node
printf 'ffffffff81000000 T _stext\nffffffff81000040 t helper\nffffffffc0000000 t probe\t[ext4]\n' > corpus/kallsyms/small
head -c 4096 /proc/kallsyms > corpus/kallsyms/own
printf '_ZNSt6vectorIiSaIiEE9push_backEOi' > corpus/demangle/cpp
printf '_ZN4core3fmt5Write9write_fmt17h0123456789abcdefE' > corpus/demangle/rust-legacy
printf '_RINvNtC3std3mem8align_ofdE' > corpus/demangle/rust-v0
