-- shape: rows whose text has the shape of prose, in any script: letters, sound characters, no shouting, no blobs.
-- Takes: rows with a column text. Gives: row_id of the rows to keep; the others, and null texts, are rejected.
WITH shaped AS (
    SELECT
        row_id,
        text,
        length(regexp_replace(text, '[\pZ\pC]+', '', 'g')) AS visible,
        length(regexp_replace(text, '[^\pL\pM]+', '', 'g')) AS letters,
        length(regexp_replace(text, '[^\p{Lu}]+', '', 'g')) AS capitals,
        length(regexp_replace(text, '[^\p{Ll}]+', '', 'g')) AS small,
        list_filter(regexp_split_to_array(text, '\s*\n\s*'), lambda line: line <> '') AS lines
    FROM rows
)
SELECT row_id
FROM shaped
WHERE letters >= 0.5 * visible AND visible > 0             -- not mostly numbers, symbols, emoji or code
    AND (capitals <= 20 OR capitals <= 1.5 * small)        -- does not shout
    AND NOT regexp_matches(text, '[^\P{Cc}\t\n\r]|\x{FFFD}')      -- no control character, none that was lost
    AND NOT regexp_matches(text, '[\p{Lu}\p{Ll}\p{Nd}]{50}')      -- no word of 50 letters: keys, base64, 'aaaa...'
    AND (                                                  -- under 4 lines, or at most 30 % of them trail off
        len(lines) < 4
        OR len(list_filter(lines, lambda line: regexp_matches(line, '(…|\.\.\.)$'))) <= 0.3 * len(lines)
    )
