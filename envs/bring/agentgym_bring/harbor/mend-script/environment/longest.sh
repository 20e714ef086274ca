#!/bin/sh
longest=
read -r line < "$1"
for word in $line; do
    [ ${#word} -gt ${#longest} ] && longest=$word
done
echo "$longest"
