-- refusal: rows whose text is an answer and no refusal, apology or unfilled template ('As an AI', '[Name]').
-- Takes: rows with a column text. Gives: row_id of the rows to keep; the others, and null texts, are rejected.
SELECT row_id
FROM rows
WHERE NOT regexp_matches(
    text,
    '(?i)\b(as an ai|i am an ai|i''m an ai|language model|i cannot|i can''t|i''m sorry|i apologi[sz]e)\b|\[[a-z][a-z ]*\]'
)
