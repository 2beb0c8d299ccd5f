"""How far two windows are apart, and whether chance would do that: distances, tests, their SQL, charts of streams, and the rule.

    distances      PSI, Jensen-Shannon, Wasserstein, KS as plain NumPy: the readable reference
    significance   p-values and Benjamini-Hochberg          multivariate   MMD^2 and the domain classifier
    differences    quantiles and shares with intervals      enrichment     words more frequent on one side
    sketch         bins of one per cent that add up         sql            the same statistics computed by ClickHouse
    streams        CUSUM, EWMA, ADWIN                       chart          one of them, value by value, with a memory to keep
    rule           which statistic decides, and the verdict

Pure: takes numbers or writes SQL text. Reads no store, knows no baseline, raises no alert.
"""
