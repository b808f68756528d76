// The rules of @graphql-eslint over the schema and over documents. What differs from the presets is listed, each with its reason.
import plugin from '@graphql-eslint/eslint-plugin';

const preset = (name) => plugin.configs[`flat/${name}`].rules;
const graphql = {
  plugins: { '@graphql-eslint': plugin },
  languageOptions: {
    parser: plugin.parser,
    parserOptions: { graphQLConfig: { schema: 'schema.graphql', documents: 'documents/*.graphql' } },
  },
};

const [severity, { 'ObjectTypeDefinition,ObjectTypeExtension': objects, ...names }] =
  preset('schema-recommended')['@graphql-eslint/naming-convention'];

export default [
  {
    ...graphql,
    files: ['schema.graphql'],
    rules: {
      ...preset('schema-recommended'),
      ...preset('schema-relay'),
      // A note's type is a word of the clinic (LOINC document type), and so `NoteType` says what it is.
      '@graphql-eslint/naming-convention': [severity, { ...names, 'ObjectTypeDefinition[name.value!=NoteType]': objects }],
      // A mutation returns a plain payload that holds what it changed; pages and their edges have cursors; the others are values.
      '@graphql-eslint/strict-id-in-types': [
        'error',
        {
          exceptions: {
            suffixes: ['Payload', 'Connection', 'Edge'],
            types: ['Feature', 'HumanName', 'Identifier', 'NoteSignature', 'NoteType', 'PageInfo'],
          },
        },
      ],
      // Short lists that are part of a record are plain lists: identifiers, given names, signatures, roles.
      '@graphql-eslint/relay-edge-types': [
        'error',
        { withEdgeSuffix: true, shouldImplementNode: true, listTypeCanWrapOnlyEdgeType: false },
      ],
    },
  },
  {
    ...graphql,
    files: ['documents/*.graphql'],
    rules: {
      ...preset('operations-recommended'),
      // As deep as `limits.depth` of config/base.yaml.
      '@graphql-eslint/selection-set-depth': ['error', { maxDepth: 12 }],
    },
  },
];
