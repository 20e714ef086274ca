mkdir -p /app/logs
i=0
while [ $i -lt 300 ]; do
    i=$((i + 1))
    level=INFO
    [ $((i % 7)) -eq 0 ] && level=ERROR
    [ $((i % 11)) -eq 0 ] && level=error
    [ $((i % 13)) -eq 0 ] && level="WARN no ERROR"
    echo "$i $level request $((i * 37 % 1000))" >> /app/logs/server-$((i % 4)).log
done
