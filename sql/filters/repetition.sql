-- repetition: rows whose text does not go round in circles; copy the file to change the limits.
-- Takes: rows with a column text. Gives: row_id of the rows to keep; the others, and null texts, are rejected.
-- Limits: at most 40 % of runs of 4 words said again in the text (seq-rep-4, arXiv 1908.04319), half of the lines of
-- over 20 characters (as in Gopher, arXiv 2112.11446, that has 30 %, where songs and tables are), and no word 10 times
-- in a row; in the first 100,000 characters. A word is a run of letters and digits, or one sign in scripts that part
-- no words by spaces.
WITH split AS (
    SELECT
        row_id,
        regexp_extract_all(lower(left(text, 100000)), '[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]|(?:[^\PL\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]|[\pM\pN])+') AS words,
        list_filter(regexp_split_to_array(left(text, 100000), '\s*\n\s*'), lambda line: length(line) > 20) AS lines
    FROM rows
    WHERE text IS NOT NULL
),
counted AS (
    SELECT
        row_id,
        len(lines) AS lines,
        len(lines) - len(list_distinct(lines)) AS repeated_lines,
        list_zip(words, words[2:], words[3:], words[4:])[:-4] AS runs,  -- without the last three, which are cut off
        len(runs) - len(list_distinct(list_transform(runs, lambda run: hash(run)))) AS repeated_runs,
        len(list_filter(runs, lambda run: run[1] = run[2] AND run[2] = run[3] AND run[3] = run[4] AND length(run[1]) > 1))
            AS one_word_runs
    FROM split
)
SELECT row_id
FROM counted
WHERE repeated_runs <= 0.4 * len(runs) AND repeated_lines <= 0.5 * lines AND one_word_runs < 7  -- 7 fours = 10 words
