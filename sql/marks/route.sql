-- route: who decides each row's label: keep it, the model that labelled it again, or a human; copy the file to change it.
-- Takes: rows with label, new_label and label_entropy (curate.relabel), student_label and student_clean (curate.student).
-- Gives: row_id and route of every row: 'keep', 'model' or 'human'.
-- A row is kept when the student, that never saw it, says its label too, which is clean with a probability above 0.7 (FreeAL,
-- arXiv 2311.15614), and the model, if it was asked, does not say another. Of the others the 80 % in which the votes of the
-- model differ least go to the model, the rest to people (CoAnnotating, arXiv 2310.15638), as do rows that it gave no label.
-- Of equal entropies those come first in which the student sides with the model, then chance decides.
-- Then: derive: {label: "if(route = 'model', new_label, label)"}. MCKD (arXiv 2311.08640) needs no route: a student of two
-- folds judges the rows, then derive: {label: "coalesce(student_label, label)"}, and again.
WITH sided AS (
    SELECT
        row_id,
        label_entropy,
        new_label IS NOT NULL AS asked,
        student_label IS NOT DISTINCT FROM new_label AS sides,
        coalesce(student_clean > 0.7 AND student_label = label AND coalesce(new_label, label) = label, false) AS kept
    FROM rows
),
placed AS (
    SELECT *, row_number() OVER (PARTITION BY kept, asked ORDER BY label_entropy NULLS LAST, NOT sides, chance(row_id, 'route'), row_id) AS place,
        count(*) OVER (PARTITION BY kept, asked) AS size
    FROM sided
)
SELECT row_id, CASE WHEN kept THEN 'keep' WHEN asked AND place <= 0.8 * size THEN 'model' ELSE 'human' END AS route
FROM placed
