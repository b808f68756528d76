// A Relay client: a chart whose lists are paged and refetched by the id of the patient, and mutations that update the lists.
import { graphql } from 'relay-runtime';

export const chart = graphql`
  query chartQuery($patient: ID!) {
    viewer {
      name
      tenant {
        name
      }
    }
    node(id: $patient) {
      __typename
      ...chart_encounters
      ...chart_notes
    }
  }
`;

export const encounters = graphql`
  fragment chart_encounters on Patient
  @refetchable(queryName: "chartEncountersQuery")
  @argumentDefinitions(count: { type: "Int", defaultValue: 10 }, cursor: { type: "String" }) {
    encounters(first: $count, after: $cursor) @connection(key: "chart_encounters") {
      edges {
        node {
          status
          startedAt
          patient {
            birthDate
          }
        }
      }
    }
  }
`;

export const notes = graphql`
  fragment chart_notes on Patient
  @refetchable(queryName: "chartNotesQuery")
  @argumentDefinitions(count: { type: "Int", defaultValue: 20 }, cursor: { type: "String" }) {
    notes(last: $count, before: $cursor) @connection(key: "chart_notes") {
      edges {
        cursor
        node {
          ...chart_note
        }
      }
    }
  }
`;

export const note = graphql`
  fragment chart_note on ClinicalNote @refetchable(queryName: "chartNoteQuery") {
    title
    body
    status
    author {
      name
    }
  }
`;

export const worklist = graphql`
  query chartWorklistQuery($filter: NoteFilter!) {
    ...chart_worklist @arguments(filter: $filter)
  }
`;

export const open = graphql`
  fragment chart_worklist on Query
  @refetchable(queryName: "chartWorklistPageQuery")
  @argumentDefinitions(filter: { type: "NoteFilter!" }, count: { type: "Int", defaultValue: 20 }, cursor: { type: "String" }) {
    notes(filter: $filter, first: $count, after: $cursor) @connection(key: "chart_worklist__notes", filters: ["filter"]) {
      edges {
        node {
          ...chart_note
        }
      }
    }
  }
`;

export const draft = graphql`
  mutation chartDraftMutation($input: DraftNoteInput!, $connections: [ID!]!) {
    draftNote(input: $input) {
      note @prependNode(connections: $connections, edgeTypeName: "ClinicalNoteEdge") {
        ...chart_note
      }
    }
  }
`;

export const discard = graphql`
  mutation chartDiscardMutation($input: DiscardDraftInput!, $connections: [ID!]!) {
    discardDraft(input: $input) {
      discardedNoteId @deleteEdge(connections: $connections) @deleteRecord
    }
  }
`;

export const register = graphql`
  mutation chartRegisterMutation($input: RegisterPatientInput!) {
    registerPatient(input: $input) {
      patient {
        version
        createdAt
      }
    }
  }
`;
