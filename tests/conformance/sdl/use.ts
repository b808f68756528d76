// Code of a client that uses the generated types. tsc must compile it.
import type { ChartQuery, DraftNoteInput, NoteFilter, RegisterPatientInput, SignNoteMutation } from './generated.js';

export const register: RegisterPatientInput = { identifiers: [{ system: 'urn:mrn', value: '1' }], sex: 'FEMALE', name: { text: 'Ann Lee' } };
export const draft: DraftNoteInput = { patientId: 'x', type: '11506-3', body: 'Stable.' };
export const filter: NoteFilter = { status: ['DRAFT', 'UNCOSIGNED'], from: '2026-11-22T09:30:00Z' };

export const titles = (chart: ChartQuery): (string | null | undefined)[] =>
  chart.patient?.encounters.edges.flatMap(({ node }) => node.notes.edges.map((edge) => edge.node.title)) ?? [];
export const signedAt = (answer: SignNoteMutation): string | undefined => answer.signNote?.note?.signatures[0]?.signedAt;
