"""FunctionGemma's control tokens, and a chat template in its format."""

from __future__ import annotations

from typing import Final

TEMPLATE: Final = """
{%- macro show(value) -%}
{%- if value is string -%}{{ '<escape>' + value + '<escape>' }}
{%- elif value is boolean -%}{{ 'true' if value else 'false' }}
{%- elif value is mapping -%}
{ {%- for key, one in value | dictsort %}{{ ',' if not loop.first }}{{ key }}:{{ show(one) }}{% endfor -%} }
{%- elif value is sequence -%}
[{%- for one in value %}{{ ',' if not loop.first }}{{ show(one) }}{% endfor -%}]
{%- else -%}{{ value }}{%- endif -%}
{%- endmacro -%}
{%- if tools -%}
{{ '<start_of_turn>developer\n' }}
{%- for tool in tools -%}
{%- set f = tool.function -%}
{{ '<start_function_declaration>declaration:' + f.name + '{description:' + show(f.description) }}
{%- if f.parameters %},parameters:{properties:{
{%- for key, one in f.parameters.properties | dictsort -%}
{{ ',' if not loop.first }}{{ key }}:{description:{{ show(one.description or '') }},
{{- 'type:' }}{{ show(one.type | upper) }}}
{%- endfor -%}
},type:{{ show(f.parameters.type | upper) }}}{% endif -%}
{{ '}<end_function_declaration>' }}
{%- endfor -%}
{{ '<end_of_turn>\n' }}
{%- endif -%}
{%- set last = namespace(kind='') -%}
{%- for m in messages -%}
{%- if m.role == 'tool' -%}
{{ '<start_function_response>response:' + m.name + '{value:' -}}
{{ show(m.content) + '}<end_function_response>' }}
{%- set last.kind = 'response' -%}
{%- else -%}
{%- if last.kind != 'response' -%}
{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}
{%- endif -%}
{{ m.content }}
{%- for call in m.tool_calls -%}
{{ '<start_function_call>call:' + call.function.name -}}
{{ show(call.function.arguments) + '<end_function_call>' }}
{%- endfor -%}
{%- if m.tool_calls -%}
{%- set last.kind = 'call' -%}{{ '<start_function_response>' if loop.last }}
{%- else -%}{%- set last.kind = '' -%}{{ '<end_of_turn>\n' }}{%- endif -%}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt and last.kind == '' %}{{ '<start_of_turn>model\n' }}{% endif -%}
"""
"""How FunctionGemma's chats look."""
CONTROL: Final = (
    *("<start_of_turn>", "<end_of_turn>"),
    *("<start_function_declaration>", "<end_function_declaration>", "<start_function_call>"),
    *("<end_function_call>", "<start_function_response>", "<end_function_response>", "<escape>"),
)
