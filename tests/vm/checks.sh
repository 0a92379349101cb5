# shellcheck shell=bash
# Checks that go on after one that failed, and end with a line like cargo test's; `checks_of` says what they are about.

checks_passed=0
checks_failed=0

# More than any check needs where the processor is emulated and shared.
check_limit_s=400

# check NAME COMMAND...: runs it in a shell with `set -e`; what it said is shown where it failed, or took too long.
check() {
    local name=$1 said status running limit ended
    shift
    # A file, not a pipe: what the command has left running would keep a pipe open.
    said=$(mktemp)
    # A shell in a condition would not stop at an error.
    set +e
    (set -euo pipefail && "$@") >"$said" 2>&1 &
    running=$!
    sleep "$check_limit_s" >&- 2>&- &
    limit=$!
    wait -n -p ended "$running" "$limit"
    status=$?
    if [[ $ended == "$limit" ]]; then
        kill -KILL "$running"
        echo "it takes more than $check_limit_s s" >>"$said"
        status=124
    else
        kill "$limit"
    fi
    wait "$running" "$limit"
    set -e
    if [[ $status -eq 0 ]]; then
        checks_passed=$((checks_passed + 1))
        echo "test ${checks_of:-vm}: $name ... ok"
    else
        checks_failed=$((checks_failed + 1))
        echo "test ${checks_of:-vm}: $name ... FAILED"
        cat "$said"
    fi
    rm "$said"
}

# The last line, and whether all went well.
checks_end() {
    local result=ok
    [[ $checks_failed -eq 0 ]] || result=FAILED
    echo "test result: $result. $checks_passed passed; $checks_failed failed; 0 ignored; finished in $SECONDS s"
    [[ $checks_failed -eq 0 ]]
}

# contains TEXT PART...: fails with the text where a part is not in it.
contains() {
    local text=$1 part
    shift
    for part; do
        [[ $text == *"$part"* ]] || { printf 'no "%s" in:\n%s\n' "$part" "$text" && return 1; }
    done
}

# published TOPIC FILTER: waits for a message that jq's FILTER holds of, and prints it. Numbers as JSON are seldom equal
# to the last bit: is(NUMBER) allows a billionth.
published() {
    local topic=$1 filter="def is(n): . != null and (. - n | fabs) < 1e-9; $2" message last=none messages
    exec {messages}< <(exec mosquitto_sub -t "$topic" -W 120)
    local subscriber=$!
    while read -r -u "$messages" message; do
        if jq -e "$filter" <<<"$message" >/dev/null; then
            kill "$subscriber"
            echo "$message"
            return
        fi
        last=$message
    done
    printf 'waited in vain for: %s\non %s; the last message: %s\n' "$2" "$topic" "$last"
    return 1
}

# dpkg_is_content: has nothing to say about edgewatt: it is installed, no file differs, no conffile is left, nor is a file
# that a script has put aside. The guest installs no documents.
dpkg_is_content() {
    local said
    [[ $(dpkg-query -Wf '${db:Status-Status} ${Conffiles}' edgewatt) == 'installed ' ]]
    said=$(dpkg --verify edgewatt | grep -v '^missing  *c* */usr/share/doc/' || true; dpkg --audit)
    [[ -z $said ]] || { echo "$said" && return 1; }
    [[ -z $(find /etc/edgewatt -name '*.dpkg-*') ]] || { ls -la /etc/edgewatt && return 1; }
}
