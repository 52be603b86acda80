#!/usr/bin/awk -f
# Prints "PASSED FAILED" of one part's log; see part() in test.sh. A command that failed without
# saying which test did, or that ran no test, counts as one failure.
{
    line = $0
    gsub(/;/, ",", line)
    if (counter == "counted" && line ~ /[0-9]+ (passed|failed)/ && (line ~ /^test result: / || line ~ /^(=+ )?[0-9]+ .* in [0-9.]+s/ || line ~ /^[A-Za-z0-9_.+ -]+: [0-9]+ passed, [0-9]+ failed/)) {
        n = split(line, word, /[ ,=]+/)
        for (i = 2; i <= n; i++) {
            if (word[i] == "passed") good += word[i - 1]
            if (word[i] == "failed" || word[i] ~ /^errors?$/) bad += word[i - 1]
        }
    }
}
END {
    if (counter == "status") { if (status == 0) good = 1; else bad = 1 }
    else if ((status != 0 && !bad) || !(good + bad)) bad += 1
    print good + 0, bad + 0
}
