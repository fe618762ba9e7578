// Rules for the app's scripts and their tests; run from the repository's root.

import js from "@eslint/js";
import globals from "globals";

const APP = ["app/web/js/**/*.js"];
const TESTS = ["tests/js/**/*.js"];

// A browser takes an import as it stands: no package by its name, no address without ".js".
const RELATIVE = "/^\\.\\.?\\u002f.+\\.js$/";
const NOT_RELATIVE = ["ImportDeclaration", "ExportAllDeclaration", "ExportNamedDeclaration[source]"]
  .map((node) => `${node}:not([source.value=${RELATIVE}])`)
  .join(", ");

const AS_MARKUP = "Text from outside must stay text: use el() and textContent.";

export default [
  { linterOptions: { reportUnusedDisableDirectives: "error" } },
  js.configs.recommended,
  {
    files: [...APP, ...TESTS],
    languageOptions: { ecmaVersion: 2023, sourceType: "module" },
    rules: {
      curly: ["error", "multi-line"],
      eqeqeq: "error",
      "max-lines": ["error", 400],
      "no-alert": "error",
      "no-console": "error",
      "no-else-return": "error",
      "no-eval": "error",
      "no-implied-eval": "error",
      "no-new-func": "error",
      "no-param-reassign": "error",
      "no-shadow": "error",
      "no-throw-literal": "error",
      "no-unused-vars": ["error", { argsIgnorePattern: "^_" }],
      "no-use-before-define": ["error", { functions: false }],
      "no-var": "error",
      "object-shorthand": "error",
      "prefer-const": "error",
      "prefer-template": "error",
    },
  },
  {
    files: APP,
    languageOptions: { globals: globals.browser },
    rules: {
      "no-restricted-properties": [
        "error",
        ...["innerHTML", "outerHTML", "insertAdjacentHTML", "setHTMLUnsafe"].map((property) => ({
          property,
          message: AS_MARKUP,
        })),
        { object: "document", property: "write", message: AS_MARKUP },
      ],
      "no-restricted-globals": [
        "error",
        { name: "localStorage", message: "It may throw: use recall() and remember() of store.js." },
        { name: "event", message: "Take the event as the listener's argument." },
        { name: "name", message: "A variable of that name is missing." },
      ],
      "no-restricted-syntax": [
        "error",
        { selector: NOT_RELATIVE, message: "Import by a relative address that ends in .js." },
      ],
    },
  },
  {
    files: ["app/web/js/store.js"],
    rules: { "no-restricted-globals": "off" },
  },
  {
    files: TESTS,
    languageOptions: { globals: globals.node },
  },
];
