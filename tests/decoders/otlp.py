"""Requests of OTLP profiles (gzip), decoded by OpenTelemetry's own package: sums of one process, as JSON.

PROCESS FUNCTION FILE...; printed is {profile type: {value: [unit, total, total of stacks with FUNCTION]}}.
"""

import gzip
import json
import sys

from opentelemetry.proto.collector.profiles.v1development import profiles_service_pb2

process, function = sys.argv[1:3]
sums = {}
for name in sys.argv[3:]:
    with gzip.open(name) as file:
        request = profiles_service_pb2.ExportProfilesServiceRequest.FromString(file.read())
    tables = request.dictionary
    words = tables.string_table

    def has_function(stack):
        locations = (tables.location_table[index] for index in stack.location_indices)
        lines = (line for location in locations for line in location.lines)
        return any(words[tables.function_table[line.function_index].name_strindex] == function for line in lines)

    def is_of_process(sample):
        attributes = (tables.attribute_table[index] for index in sample.attribute_indices)
        return any(
            words[attribute.key_strindex] == "process.executable.name" and attribute.value.string_value == process
            for attribute in attributes
        )

    with_function = [has_function(stack) for stack in tables.stack_table]
    for source in request.resource_profiles:
        of = {attribute.key: attribute.value.string_value for attribute in source.resource.attributes}
        values = sums.setdefault(of["perf_agent.profile_type"], {})
        for profile in (profile for scope in source.scope_profiles for profile in scope.profiles):
            kind = words[profile.sample_type.type_strindex]
            known = values.setdefault(kind, [words[profile.sample_type.unit_strindex], 0, 0])
            assert known[0] == words[profile.sample_type.unit_strindex], kind
            for sample in filter(is_of_process, profile.samples):
                known[1] += sum(sample.values)
                known[2] += sum(sample.values) if with_function[sample.stack_index] else 0
print(json.dumps(sums))
