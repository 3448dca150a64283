//! The description of the API (OpenAPI 3.1), made from the routes and from the parsers of their parameters: it cannot say anything else.

use clap::{Arg, ArgAction};
use serde_json::{Map, Value, json};

use super::routes::{ROUTES, Route};

/// The document.
pub(super) fn document() -> Value {
    let paths: Map<String, Value> =
        ROUTES.iter().map(|route| (route.path.to_owned(), json!({ "get": operation(route) }))).collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "perf-agent",
            "version": super::VERSION,
            "description": "What a perf-agent daemon has recorded. Everything is read with GET, nothing can be changed. Parameters are the flags of `perf-agent query`. Within v1, fields and routes may be added; those that exist keep their meaning.",
            "license": { "name": "MIT OR Apache-2.0" },
        },
        "paths": paths,
        "components": {
            "securitySchemes": {
                "token": { "type": "http", "scheme": "bearer", "description": "Over TCP, where a token is configured. Browsers send it as a password (Basic), with any name." },
            },
            "schemas": {
                "Refusal": {
                    "type": "object",
                    "required": ["error", "cause"],
                    "properties": {
                        "error": { "type": "string", "description": "What is wrong, and what was found." },
                        "cause": { "type": "string", "description": "A word for machines." },
                        "hint": { "type": ["string", "null"], "description": "What helps." },
                    },
                },
            },
        },
        "security": [{ "token": [] }, {}],
    })
}

fn operation(route: &Route) -> Value {
    let command = (route.parameters)();
    let parameters: Vec<Value> = command.get_arguments().map(parameter).collect();
    let content: Map<String, Value> =
        route.answers.iter().map(|kind| ((*kind).to_owned(), json!({}))).collect();
    let refusal = |text: &str| {
        json!({
            "description": text,
            "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Refusal" } } },
        })
    };
    json!({
        "summary": route.summary,
        "operationId": route.path.trim_start_matches('/').replace(['/', '.'], "_"),
        "parameters": parameters,
        "responses": {
            "200": { "description": "The answer.", "content": content },
            "400": refusal("The parameters make no sense; the answer says what is understood."),
            "401": refusal("The token is missing or wrong."),
            "404": refusal("Nothing is stored that was asked for; the hint says what is."),
            "422": refusal("The answer would be too large."),
            "429": refusal("Too many at once; Retry-After says when to try again."),
            "503": refusal("The store cannot be read now, or it takes too long; the answer says why."),
        },
    })
}

fn parameter(argument: &Arg) -> Value {
    let possible: Vec<String> =
        argument.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
    let is_switch = matches!(argument.get_action(), ArgAction::SetTrue);
    let mut schema = json!({ "type": if is_switch { "boolean" } else { "string" } });
    if !is_switch && !possible.is_empty() {
        schema["enum"] = json!(possible);
    }
    if let Some(default) = argument.get_default_values().first().filter(|_| !is_switch) {
        schema["default"] = json!(default.to_string_lossy());
    }
    json!({
        "name": argument.get_long(),
        "in": "query",
        "required": argument.is_required_set(),
        "description": argument.get_help().map(ToString::to_string),
        "schema": schema,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_and_parameter_is_described() {
        let document = document();
        for route in ROUTES {
            let described = &document["paths"][route.path]["get"];
            assert!(described["summary"].as_str().is_some_and(|text| !text.is_empty()), "{}", route.path);
            let parameters = described["parameters"].as_array().unwrap();
            assert_eq!(parameters.len(), (route.parameters)().get_arguments().count(), "{}", route.path);
            for parameter in parameters {
                assert!(parameter["name"].is_string() && parameter["description"].is_string(), "{parameter}");
            }
        }
        let names = |path: &str| -> Vec<String> {
            let parameters = document["paths"][path]["get"]["parameters"].as_array().unwrap();
            parameters.iter().map(|parameter| parameter["name"].as_str().unwrap().to_owned()).collect()
        };
        for name in ["from", "to", "type", "process", "thread", "cgroup", "container", "pid", "tid", "format"]
        {
            assert!(names("/api/v1/flamegraph").contains(&name.to_owned()), "{name}");
        }
        assert!(!names("/api/v1/top").contains(&"store".to_owned()));
        assert_eq!(document["paths"].as_object().unwrap().len(), ROUTES.len());
    }
}
