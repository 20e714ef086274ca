#!/bin/sh
# The logs are made anew where the agent has never been.
mkdir -p /tmp/made
sed 's#/app/#/tmp/made/#g' /tests/make-logs.sh > /tmp/made/make.sh
sh /tmp/made/make.sh
right=$(cat /tmp/made/logs/*.log | awk '$2 == "ERROR"' | wc -l)
if [ "$(tr -d '[:space:]' < /app/answer.txt)" = "$right" ]; then
    echo 1 > /logs/verifier/reward.txt
else
    echo 0 > /logs/verifier/reward.txt
fi
