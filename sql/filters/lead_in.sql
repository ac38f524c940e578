-- lead_in: rows whose English text begins at once, not as a chat's reply does ('Sure, here is a poem:', 'Certainly!').
-- Takes: rows with a column text. Gives: row_id of the rows to keep; the others, and null texts, are rejected.
SELECT row_id
FROM rows
WHERE NOT regexp_matches(text, '(?i)^\W*(sure|certainly|of course|absolutely|okay|ok|great|no problem)( thing)?[!,.:]* (i can|i[''’]d|i would|i[''’]ll|i will|let me|here|below)\b')
    AND NOT regexp_matches(text, '(?i)^\W*(sure|certainly|of course|absolutely)( thing)?[!:]\W')
    AND NOT regexp_matches(text, '(?i)^\W*(here[''’]s|here (is|are)|below (is|are)|the following (is|are)) [^.!?\n]{0,120}:\s')
