-- template: rows whose text has no slot left unfilled ('[Your Name]', '{{ name }}', '<insert date>') and no chat markup.
-- Takes: rows with a column text. Gives: row_id of the rows to keep; the others, and null texts, are rejected.
SELECT row_id
FROM rows
-- '[Name]', '[Company Name]', '[your email]', '[insert date]'; not array[name], [link](url), [1], [Video].
WHERE NOT regexp_matches(text, '(?i)(^|[^\w\])])\[(insert|your|enter|add|fill in) [^\[\]\n]{1,60}\]([^(\[]|$)')
    AND NOT regexp_matches(text, '(?i)(^|[^\w\])])\[([a-z''’]+ ){0,2}(name|date|company|employer|address|email|phone number|job title|position|product|topic|number|amount|location|city|recipient|sender|supervisor|manager|customer|client|signature)( \d| here)?\]([^(\[]|$)')
-- '{{ name }}', '{Customer Name}', '<insert date>', '<your name>', 'lorem ipsum'; not {name} or <title>, which are code.
    AND NOT regexp_matches(text, '(?i)\{\{ ?[a-z_][a-z_. ]* ?\}\}|\{(insert|your|customer|company|product|user) [a-z ]+\}|<(insert|your|enter|add) [^<>\n]{1,60}>|\blorem ipsum dolor\b')
-- '<|im_end|>', '[/INST]', '### Response:', 'Human: ... Assistant: ...'.
    AND NOT regexp_matches(text, '<\|[a-z_]+\|>|\[/?INST\]|<</?SYS>>|(?m:^### ?(Instruction|Response|Input|Human|Assistant)\b)|(?s:(^|\n)Human: .*\nAssistant: )')
