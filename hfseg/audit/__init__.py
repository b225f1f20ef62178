"""What `hfseg check` does.

It lists every file (survey, rows), reads each pair (pair, workers), judges the set (duplicates, summary), and shows it
(drawing, page).
"""
