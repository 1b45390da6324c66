"""From scores to pages: rows, intervals, verdicts, pictures, the site.

Here belongs what reads results that are on disk and shows them: the paper's numbers beside ours
(``rows``), how sure a gain is (``stats``), what it says of a claim (``claims``) or of a cause
(``controls``), how all of it looks (``style``, ``pictures``), and the pages as a site (``site``).
Nothing here trains, scores or fetches, and nothing that does so reads from here. The paper's own
numbers and claims are data of ``augkd.study.paper``.
"""
