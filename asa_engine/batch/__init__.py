"""Many recordings at once: named, scored by several processes, written so that work can go on.

    recordings = read_recordings([Path("answers/"), Path("class.csv")])
    with Journal(Path("results.jsonl"), recordings, engine.receipt, resume=True) as journal:
        rest = recordings[journal.done :]
        for row in score_in_processes(rest, options, engine.uses, workers=2):
            journal.append(row)

The rows of a journal are what everything else is made of: tables, TextGrids, reports.
"""
