#!/bin/sh
right=0
while IFS='|' read -r text wanted; do
    printf "$text" > /tmp/text
    [ "$(timeout 5 sh /app/longest.sh /tmp/text)" = "$wanted" ] && right=$((right + 1))
done < /tests/cases
echo "{\"reward\": $([ $right -eq "$(wc -l < /tests/cases)" ] && echo 1 || echo 0)}" > /logs/verifier/reward.json
