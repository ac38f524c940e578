-- near_duplicate_pairs: pairs of texts that share a MinHash band, with the true Jaccard similarity of their word runs.
-- Takes: signatures (row_id, bands: list of hashes, runs: list of hashes, each once). Gives: one, other (one < other), similarity.
WITH banded AS (
    SELECT row_id, unnest(bands) AS hash, generate_subscripts(bands, 1) AS band FROM signatures
),
candidates AS (
    SELECT DISTINCT a.row_id AS one, b.row_id AS other
    FROM banded a JOIN banded b ON a.band = b.band AND a.hash = b.hash AND a.row_id < b.row_id
),
shared AS (
    SELECT one, other, len(list_intersect(a.runs, b.runs)) AS common, len(a.runs) + len(b.runs) AS total
    FROM candidates
    JOIN signatures a ON a.row_id = one
    JOIN signatures b ON b.row_id = other
)
SELECT one, other, common / (total - common) AS similarity FROM shared ORDER BY one, other
