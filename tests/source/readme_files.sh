#!/bin/bash
# SPDX-License-Identifier: MIT
# Proves that the README's tables list every file with the sentence that the file opens with.
#
#   tests/source/readme_files.sh            compares
#   tests/source/readme_files.sh --write    brings the README up to date
# shellcheck disable=SC2016 # backquotes are Markdown here
set -euo pipefail
export LC_ALL=C

cd "$(dirname "$0")/../.."

# First sentence of the file's first comment, without interpreter, licence and tool lines. Comments
# begin with //, #, """ or .\" (manual pages).
purpose() { # FILE
    awk '
        text == "" && (/^#(!|compdef)/ || /SPDX-License-Identifier/ || /^.\\" t$/ || /^# shellcheck /) { next }
        !sub(/^(\/\/|# |"""|\.\\") */, "") || $0 == "" { exit }
        { text = text (text == "" ? "" : " ") $0 }
        /\.$/ { exit }
        END {
            if (match(text, /\. [A-Z]/)) text = substr(text, 1, RSTART)
            gsub(/\|/, "\\|", text)
            print text
        }' "$1"
}

# One row per part: a header and its source stand together, the header speaks for both.
rows() { # FOLDER
    local file shown sentence
    while read -r file; do
        shown=${file#"$1"/}
        [[ $file != *.cpp || ! -e ${file%.cpp}.h ]] || continue
        [[ $file != *.h || ! -e ${file%.h}.cpp ]] || shown="${shown%.h}.{h,cpp}"
        sentence=$(purpose "$file")
        [ -n "$sentence" ] || echo "readme_files: $file does not say what it is for" >&2
        printf '| `%s` | %s |\n' "$shown" "$sentence"
    done < <(find "$1" -maxdepth "${2:-1}" -type f ! -name '.*' | sort)
}

table() { # FOLDER [DEPTH]
    local body
    body=$(rows "$@")
    [ -z "$body" ] || printf '\n| `%s/` | purpose |\n|---|---|\n%s\n' "$1" "$body"
}

tables() {
    local folder
    for folder in client client/*/ netlink; do table "${folder%/}"; done
    for folder in initramfs systemd udev man; do table "$folder" 9; done
    for folder in tests tests/lab tests/source; do table "$folder"; done
    printf '\n<details><summary>Every test</summary>\n'
    for folder in tests/*/; do
        case $folder in tests/lab/ | tests/source/) ;; *) table "${folder%/}" ;; esac
    done
    printf '\n</details>\n\n'
}

begin='<!-- files: tests/source/readme_files.sh --write -->'
end='<!-- end of files -->'
listed() { awk -v begin="$begin" -v end="$end" '$0 == end { on = 0 } on; $0 == begin { on = 1 }' README.md; }

wanted=$(mktemp)
trap 'rm -f "$wanted"' EXIT
tables >"$wanted"
! grep '|  |$' "$wanted" || [ "${1:-}" = --write ] || exit 1
grep -q '^| `main.cpp` | ' "$wanted" || { echo 'readme_files: no main.cpp found' && exit 1; }

if [ "${1:-}" = --write ]; then
    awk -v begin="$begin" -v end="$end" -v tables="$wanted" '
        $0 == end { off = 0 }
        !off
        $0 == begin { off = 1; while ((getline line < tables) > 0) print line }' README.md >README.md.new
    mv README.md.new README.md
elif ! listed | diff -u --label README.md --label 'the files' - "$wanted"; then
    echo 'readme_files: the tables differ from the files: tests/source/readme_files.sh --write'
    exit 1
fi
