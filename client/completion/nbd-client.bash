# SPDX-License-Identifier: MIT
# bash completion: verbs, options, columns and devices are asked from nbd-client itself.

_nbd_client_offer() { # WORDS [PREFIX]: those that continue the current word
    mapfile -t COMPREPLY < <(compgen -P "${2-}" -W "$1" -- "${word#"${2-}"}")
}

_nbd_client() {
    local program=$1 word=${COMP_WORDS[COMP_CWORD]} option=${COMP_WORDS[COMP_CWORD - 1]} verb='' i
    local verbs
    verbs=$("$program" --words verbs 2>/dev/null)
    COMPREPLY=()

    # "--option=value" arrives as three words.
    if [[ $word == = ]]; then
        word=''
    elif [[ $option == = ]]; then
        option=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    for ((i = 1; i < COMP_CWORD; i++)); do
        if [[ $'\n'$verbs$'\n' == *$'\n'"${COMP_WORDS[i]}"$'\n'* ]]; then
            verb=${COMP_WORDS[i]}
            break
        fi
    done

    if [[ -z $verb && $word == -* ]]; then
        _nbd_client_offer "$("$program" --words options 2>/dev/null)"
        return
    elif [[ -z $verb ]]; then
        _nbd_client_offer "$verbs"
        return
    fi
    case $("$program" --words value "$verb" "$option" 2>/dev/null):$word in
        FILE:*)
            compopt -o filenames 2>/dev/null
            mapfile -t COMPREPLY < <(compgen -f -- "$word")
            ;;
        COLUMNS:*,*) _nbd_client_offer "$("$program" --words columns)" "${word%,*}," ;;
        COLUMNS:*) _nbd_client_offer "$("$program" --words columns)" ;;
        :-*) _nbd_client_offer "$("$program" --words options "$verb")" ;;
        :*) _nbd_client_offer "$("$program" list --raw --noheadings --output NAME 2>/dev/null)" ;;
    esac
}

complete -F _nbd_client nbd-client
