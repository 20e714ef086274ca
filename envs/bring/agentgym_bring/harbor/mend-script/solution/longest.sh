#!/bin/sh
longest=
for word in $(cat "$1"); do
    [ ${#word} -gt ${#longest} ] && longest=$word
done
echo "$longest"
